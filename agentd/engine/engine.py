"""Hold the parts of the engine together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentd.engine.adoption import (
    Action,
    AdoptSession,
    FailTemplate,
    ForgetVm,
    KillVm,
    plan_adoption,
    plan_sweep,
)
from agentd.engine.build import Builder
from agentd.engine.held import HeldBuilds
from agentd.engine.home import make_private_dir, read_boot_id
from agentd.engine.journal import Journal
from agentd.engine.journal_records import (
    JournalState,
)
from agentd.engine.machines import Machines
from agentd.engine.parking import Parking
from agentd.engine.plans import NodeLimits
from agentd.engine.records import Records
from agentd.engine.session_orders import new_session_id
from agentd.engine.sessions import Sessions
from agentd.engine.starter import Starter
from agentd.engine.tasks import Tasks
from agentd.engine.templates import Templates
from agentd.engine.trace import Tracer
from agentd.engine.usage import available_memory_bytes, total_memory_bytes
from agentd.settings import LiveSettings, Settings
from agentd.store.templates import TemplateStore
from agentd.vmm.vmm import Vmm

_BUDGET_SHARE = 0.8  # of the machine, when the operator does not say
_SWEEP_AFTER_S = 3.0  # a process killed between clone(2) and execve(2) has long become a machine


@dataclass(frozen=True)
class Outside:
    """What the engine works with. store: owned by whoever made it."""

    settings: Settings
    vmm: Vmm
    store: TemplateStore
    tracer: Tracer
    now_s: Callable[[], float] = time.time
    available_bytes: Callable[[], int] = available_memory_bytes


class Engine:
    """Templates, sessions, parked forks of one daemon.

    `start` adopts what a predecessor left. `stop` leaves the sessions to a successor. Make it, and
    call everything, in one event loop.
    """

    def __init__(self, outside: Outside) -> None:
        settings, tracer = outside.settings, outside.tracer
        self._outside = outside
        self.settings = live = LiveSettings(settings)
        self._vms_dir = settings.run_dir / "vms"
        make_private_dir(settings.run_dir, "paths.run_dir", 0o755)
        make_private_dir(self._vms_dir, "paths.run_dir", 0o711)
        self._boot_id = read_boot_id()
        self._journal, self._found = Journal.open(settings.run_dir / "journal", self._boot_id)
        self._forgotten: list[str] = []
        self._is_parking = False
        self._loop = asyncio.get_running_loop()
        self.records = Records(settings.data_dir / "history.db", self._on_records_error)
        self.tasks = Tasks(tracer)
        self._vm_tasks = Tasks(tracer)
        self.machines = self._make_machines()
        builder = Builder(
            outside.vmm,
            self.machines,
            outside.store,
            live,
            tracer,
        )
        self.templates = Templates(
            outside.vmm,
            outside.store,
            builder,
            self.machines,
            self._journal,
            self.records,
            self._vm_tasks,
            tracer,
            live,
            outside.now_s,
            lambda: self.parking.nudge(),
        )
        self.held = HeldBuilds(builder, self.machines, self.templates, self._vm_tasks, tracer)
        starter = Starter(outside.vmm, self.machines, self.templates, live)
        self.parking = Parking(starter, self.machines, self.templates, tracer, live, new_session_id)
        self.sessions = Sessions(
            starter,
            self.machines,
            self.templates,
            self.parking,
            self.records,
            self._vm_tasks,
            tracer,
            live,
            clock=self._loop,
            now_s=outside.now_s,
        )

    def _make_machines(self) -> Machines:
        settings = self._outside.settings
        return Machines(
            self._journal,
            self._vms_dir,
            _limits_of(settings),
            self._outside.tracer,
            concurrent=settings.concurrent_forks,
            template_bytes=lambda: self.templates.loaded_bytes,
            available_bytes=self._outside.available_bytes,
        )

    def journal_problem(self) -> str:
        """What keeps a successor from finding machines that start now; empty if nothing does."""
        return self._journal.problem()

    def check_monitor(self) -> None:
        """See whether machines can be started now. Blocks. Raises: ConfigError."""
        self._outside.vmm.check()

    # -- starting ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Adopt what runs, end what must not, then watch. Raises: SnapStartError."""
        found = await asyncio.to_thread(self._outside.vmm.find_all)
        actions = plan_adoption(
            self._found,
            found,
            [path.name for path in self._vms_dir.iterdir()],
            clock_s=asyncio.get_running_loop().time(),
            boot_id=self._boot_id,
        )
        await self._restore_templates(self._found, actions)
        await self._perform(actions)
        self.tasks.start("stray-sweep", self._sweep())
        self._park_if_wanted()

    def apply(self, settings: Settings) -> None:
        """Go on with other settings; what runs keeps what it was given."""
        self.settings.now = settings
        self.machines.limits = _limits_of(settings)
        self._park_if_wanted()
        self.parking.nudge()

    def _park_if_wanted(self) -> None:
        if self.settings.warm.count and not self._is_parking:
            self._is_parking = True
            self.tasks.start("parking", self.parking.run(), eternal=True)

    async def _restore_templates(self, state: JournalState, actions: list[Action]) -> None:
        died = [action for action in actions if isinstance(action, FailTemplate)]
        self.templates.restore(state.templates, died)

    async def _perform(self, actions: list[Action]) -> None:
        await asyncio.gather(*(self._adopt(a) for a in actions if isinstance(a, AdoptSession)))
        await asyncio.gather(*(self._kill(a) for a in actions if isinstance(a, KillVm)))
        for action in actions:
            if isinstance(action, ForgetVm):
                await self._forget(action)

    async def _adopt(self, action: AdoptSession) -> None:
        vm = self._outside.vmm.adopt(action.record)
        if vm is None:
            await self._forget(ForgetVm(action.vm_id, "vm_died_while_agentd_was_down"))
        elif await self.sessions.adopt(action, vm):
            self._outside.tracer.step("adoption.adopted", session=action.vm_id)
        else:
            self._note_lost(action.vm_id, "unreachable")

    async def _kill(self, action: KillVm) -> None:
        vm = self._outside.vmm.adopt(action.record)
        if vm is not None:
            await vm.kill()
        self._outside.tracer.step("adoption.killed", vm=action.record.vm_id, why=action.why)

    async def _forget(self, action: ForgetVm) -> None:
        await self.machines.forget(action.vm_id)
        self._outside.vmm.forget(action.vm_id)
        self._forgotten.append(action.vm_id)
        self._note_lost(action.vm_id, action.reason)

    def _note_lost(self, vm_id: str, reason: str) -> None:
        self.records.session_ended(vm_id, self._outside.now_s(), reason)
        self._outside.tracer.step("adoption.forgotten", vm=vm_id, reason=reason)

    async def _sweep(self) -> None:
        await asyncio.sleep(_SWEEP_AFTER_S)
        found = await asyncio.to_thread(self._outside.vmm.find_all)
        # What is known is asked for after the look: a machine that ended meanwhile is not killed
        # by a pid that is not its own, because `adopt` compares the process's start time.
        known = {record.vm_id for record in found if self.machines.is_known(record.vm_id)}
        for action in plan_sweep(known, found):
            await self._kill(action)
        # What such a process held on to could not be removed at the first look.
        for vm_id in self._forgotten:
            self._outside.vmm.forget(vm_id)

    # -- stopping ---------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop builds and parking, leave the sessions to a successor, release everything else."""
        stop = self._outside.settings.stop
        self.sessions.refuse()
        await self._within(stop.builds_s, "builds", self._stop_own_work())
        await self._within(stop.builds_s, "sessions", self.sessions.release())
        await self._vm_tasks.drain(stop.requests_s)
        await self._vm_tasks.stop(stop.requests_s)
        self.templates.close()
        if not await asyncio.to_thread(self.records.close, stop.records_s):
            self._outside.tracer.step("records.stop.failed", deadline_s=stop.records_s)
        self._journal.close()

    async def _stop_own_work(self) -> None:
        await self.tasks.stop(self._outside.settings.stop.builds_s)
        await asyncio.gather(self.templates.stop_work(), self.held.close(), self.parking.close())

    async def _within(self, deadline_s: float, what: str, work: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                await work
        except TimeoutError:
            self._outside.tracer.step("stop.failed", stage=what, deadline_s=deadline_s)

    def _on_records_error(self, words: str) -> None:
        """Called in the thread of the records."""
        self._loop.call_soon_threadsafe(
            lambda: self._outside.tracer.step("records.failed", error=words)
        )


def _limits_of(settings: Settings) -> NodeLimits:
    admission = settings.admission
    return NodeLimits(
        admission.memory_bytes or int(total_memory_bytes() * _BUDGET_SHARE),
        admission.host_reserve_bytes,
        admission.max_sessions,
        admission.queued_forks,
    )
