"""Hold builds at their guest's waiting point until they are sealed or dropped."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentd.engine.build import Builder, BuildOrder, HeldMachine
from agentd.engine.machines import BOOT_OVERHEAD_BYTES, Machines
from agentd.engine.plans import Need
from agentd.engine.session import ended_error
from agentd.engine.tasks import Tasks
from agentd.engine.template import Template
from agentd.engine.templates import Templates
from agentd.engine.trace import Tracer
from agentd.errors import ErrorCode, SnapStartError, UsageError
from agentd.units import MIB
from agentd.wire.manifest import Machine, SnapshotFacts


class HeldState(enum.StrEnum):
    """Where a held build is in its life."""

    STARTING = "starting"
    WAITING = "waiting"
    SEALING = "sealing"
    SEALED = "sealed"
    ENDED = "ended"


@dataclass(eq=False)
class HeldBuild:
    """A build that stops where its guest waits. id: of its machine. over: set at its end.

    error: why it ended, None while it has not, or when it was sealed or dropped on request.
    """

    id: str
    labels: Mapping[str, str]
    state: HeldState = HeldState.STARTING
    machine: HeldMachine | None = None
    error: SnapStartError | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    watcher: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<HeldBuild {self.id} {self.state.value}>"


class HeldBuilds:
    """The held builds of this node by id; owns each machine until it is sealed or dropped.

    A successor of this daemon ends them: they are journalled as builds.
    """

    def __init__(
        self,
        builder: Builder,
        machines: Machines,
        templates: Templates,
        tasks: Tasks,
        tracer: Tracer,
    ) -> None:
        self._builder = builder
        self._machines = machines
        self._templates = templates
        self._tasks = tasks
        self._tracer = tracer
        self._all: dict[str, HeldBuild] = {}

    def list(self) -> list[HeldBuild]:
        """Those that have not ended, oldest first."""
        return list(self._all.values())

    def find(self, build_id: str) -> HeldBuild | None:
        """One that has not ended."""
        return self._all.get(build_id)

    async def hold(
        self, build_id: str, image: str, machine: Machine, labels: Mapping[str, str]
    ) -> HeldBuild:
        """Boot an image, wait until its guest is warm.

        Args: build_id: chosen by the caller, as a machine's id. image: directory or key.
        Raises: UsageError when there is one of that id; TransientError NODE_FULL, NO_MEMORY; what
        the boot failed of. Cancellation: leaves nothing behind.
        """
        if build_id in self._all or self._machines.is_known(build_id):
            raise UsageError(
                ErrorCode.REQUEST_INVALID, f"holding build {build_id!r}: there is one of that id"
            )
        need = Need(machine.memory_mib * MIB + BOOT_OVERHEAD_BYTES, is_session=False)
        self._machines.promise(build_id, need)
        build = self._all[build_id] = HeldBuild(build_id, dict(labels))
        order = BuildOrder(build_id, build_id, image, machine)
        try:
            build.machine = await self._builder.hold(order, lambda _stage, _progress: None)
        except BaseException:
            self._machines.withdraw(build_id)
            self._close(build, HeldState.ENDED)
            raise
        build.state = HeldState.WAITING
        build.watcher = self._tasks.start(f"held:{build_id}", self._watch(build, build.machine))
        self._tracer.step("held.waiting", vm=build_id)
        return build

    async def seal(self, build_id: str, name: str, snapshot: SnapshotFacts) -> Template:
        """Keep a build as a template; it is over then, also by a failure, but not by a refusal.

        Raises: UsageError SESSION_NOT_FOUND, SESSION_ENDED when it does not wait; as
        `Templates.seal`. Cancellation: ends the machine, leaves no template.
        """
        build, machine = self._waiting(build_id)
        build.state = HeldState.SEALING
        try:
            template = await self._templates.seal(machine, name, snapshot)
        except BaseException as exc:
            if self._machines.is_known(build_id) and not machine.channel.closed.done():
                build.state = HeldState.WAITING  # refused before anything was done
                raise
            build.error = exc if isinstance(exc, SnapStartError) else None
            self._close(build, HeldState.ENDED)
            raise
        self._close(build, HeldState.SEALED)
        return template

    async def drop(self, build_id: str, reason: str) -> None:
        """End a build that waits; one that ended already is no error. Cancellation: afterwards."""
        build = self._all.get(build_id)
        if build is not None and build.state is HeldState.WAITING and build.machine is not None:
            await self._end(build, build.machine, reason)

    async def close(self) -> None:
        """End every build that waits."""
        for build in self.list():
            await self.drop(build.id, "stopped")

    def _waiting(self, build_id: str) -> tuple[HeldBuild, HeldMachine]:
        build = self._all.get(build_id)
        if build is None:
            raise ended_error(build_id, "there is no held build of that id")
        if build.state is not HeldState.WAITING or build.machine is None:
            raise UsageError(
                ErrorCode.TEMPLATE_NOT_READY,
                f"sealing build {build_id!r}: it is {build.state.value}",
                hint="wait until its guest is warm",
            )
        return build, build.machine

    async def _watch(self, build: HeldBuild, machine: HeldMachine) -> None:
        death: asyncio.Future[Any] = asyncio.ensure_future(machine.vm.wait())
        lost: asyncio.Future[Any] = machine.channel.closed
        try:
            await asyncio.wait({death, lost}, return_when=asyncio.FIRST_COMPLETED)
            if build.state is HeldState.WAITING:
                build.error = _lost(build.id, lost)
                await self._end(build, machine, "lost")
        finally:
            death.cancel()
            lost.cancel()

    async def _end(self, build: HeldBuild, machine: HeldMachine, reason: str) -> None:
        build.state = HeldState.ENDED
        try:
            await self._builder.drop(machine, reason)
        finally:
            self._close(build, HeldState.ENDED)

    def _close(self, build: HeldBuild, state: HeldState) -> None:
        build.state = state
        build.machine = None
        self._all.pop(build.id, None)
        if build.watcher is not None and build.watcher is not asyncio.current_task():
            build.watcher.cancel()
        build.over.set()
        self._tracer.step("held.over", vm=build.id, state=state.value, error=str(build.error or ""))


def _lost(build_id: str, channel: asyncio.Future[Any]) -> SnapStartError:
    if channel.done() and not channel.cancelled():
        error: SnapStartError = channel.result()
        return error
    return ended_error(build_id, "its machine ended")
