"""Create sessions, lend them out, end them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from msgspec import structs

from agentd.engine.adoption import AdoptSession
from agentd.engine.expiry import Clock, Expiry
from agentd.engine.journal_records import Role, SessionFacts
from agentd.engine.machines import Machines
from agentd.engine.parking import Parked, Parking
from agentd.engine.plans import Need, can_take_parked
from agentd.engine.records import Records
from agentd.engine.session import EndReason, Machine, Ready, Session, SessionEvent, ended_error
from agentd.engine.session_orders import (
    OwnSession,
    make_facts,
    make_order,
    make_own_facts,
    make_own_order,
    new_session_id,
)
from agentd.engine.session_watch import last_words, watch
from agentd.engine.starter import ImageSource, Order, Starter
from agentd.engine.tasks import Tasks, uninterrupted
from agentd.engine.template import Template
from agentd.engine.templates import Templates
from agentd.engine.trace import Tracer
from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError, UsageError
from agentd.settings import LiveSettings
from agentd.vmm.vmm import Vm
from agentd.warmfork.channel import GuestChannel
from agentd.wire.api import CreateSession, SessionMode, SessionState
from agentd.wire.manifest import Machine as Shape

_REMEMBERED: Final = 256  # ended sessions that still explain themselves; older ones are unknown


class Sessions:
    """The sessions of this node by id; owns each one from its creation to its end.

    Args: tasks: run one watcher per session, and its end. now_s: seconds since the epoch.
    """

    def __init__(
        self,
        starter: Starter,
        machines: Machines,
        templates: Templates,
        parking: Parking,
        records: Records,
        tasks: Tasks,
        tracer: Tracer,
        settings: LiveSettings,
        *,
        clock: Clock,
        now_s: Callable[[], float],
    ) -> None:
        self._starter = starter
        self._machines = machines
        self._templates = templates
        self._parking = parking
        self._records = records
        self._tasks = tasks
        self._tracer = tracer
        self._settings = settings
        self._clock = clock
        self._now_s = now_s
        self._live: dict[str, Session] = {}
        self._ended: OrderedDict[str, Session] = OrderedDict()
        self._expiry = Expiry(clock, self._due_s, self._on_due)
        self._creating: set[asyncio.Task[Any]] = set()
        self._is_open = True

    # -- what there is ----------------------------------------------------------------------

    def list(self) -> list[Session]:
        """Sessions that have not ended, oldest first."""
        return list(self._live.values())

    def count(self, template: str) -> int:
        """Live sessions of a template."""
        return sum(session.facts.template == template for session in self._live.values())

    def get(self, session_id: str) -> Session:
        """One session, also for a while after its end. Raises: UsageError SESSION_NOT_FOUND."""
        session = self._live.get(session_id) or self._ended.get(session_id)
        if session is None:
            raise UsageError(
                ErrorCode.SESSION_NOT_FOUND,
                f"looking for session {session_id[:80]!r}: there is none of that id",
                hint="`snapctl session list` shows the ids",
            )
        return session

    # -- creating ---------------------------------------------------------------------------

    async def create(self, request: CreateSession) -> Session:
        """Start a session and wait until its guest has an identity.

        Raises: UsageError, TransientError NODE_FULL, PeerError, PermanentError.
        Cancellation: leaves nothing behind.
        """
        with self._creation():
            template = self._templates.require_ready(request.template)
            facts = make_facts(request, self._settings.lifetime, self._now_s())
            order = make_order(new_session_id(), request, self._settings.deadlines)
            parked = self._take_parked(request)
            if parked is not None:
                order = replace(order, vm_id=parked.id)
            return await self._create(order, facts, template, parked)

    async def start(self, wish: OwnSession) -> Session:
        """Start a session under an id of the caller's, and wait until its guest has an identity.

        Raises: as `create`; UsageError when there is a machine of that id, so that one id never has
        two. Cancellation: leaves nothing behind.
        """
        with self._creation():
            if wish.id in self._live or self._machines.is_known(wish.id):
                raise UsageError(
                    ErrorCode.REQUEST_INVALID, f"starting session {wish.id!r}: it runs already"
                )
            source: Template | ImageSource
            if isinstance(wish.source, str):
                source = self._templates.require_ready(wish.source)
            else:
                source = wish.source
            facts = make_own_facts(wish, self._now_s())
            return await self._create(make_own_order(wish), facts, source, None)

    @contextlib.contextmanager
    def _creation(self) -> Iterator[None]:
        self._require_open()
        task = asyncio.current_task()
        assert task is not None
        self._creating.add(task)
        try:
            yield
        finally:
            self._creating.discard(task)

    async def _create(
        self,
        order: Order,
        facts: SessionFacts,
        source: Template | ImageSource,
        parked: Parked | None,
    ) -> Session:
        # Not the loop's clock, which stands still while a callback runs.
        begun_s = time.perf_counter()
        session = self._new(order.vm_id, facts)
        ready = None if parked is None else parked.ready
        try:
            if isinstance(source, Template):
                session.leases.enter_context(self._templates.lease(source.name))
            if ready is None:
                ready = await self._starter.start(order, source)
            total_ms = _since_ms(begun_s)
            # Those of a parked fork were over before anybody asked.
            stages_ms = ready.stages_ms if parked is None else {}
            self._begin(session, replace(ready, stages_ms={**stages_ms, "total": total_ms}))
        except BaseException as exc:
            total_ms = _since_ms(begun_s)
            await uninterrupted(self._abandon(session, ready, exc, total_ms))
            raise
        self._report(session, order.mode.value if parked is None else "parked")
        return session

    def _take_parked(self, request: CreateSession) -> Parked | None:
        if request.mode is not SessionMode.FORK or not self._machines.has_session_room:
            return None
        if not can_take_parked(env=request.env, files=request.files, metadata=request.metadata):
            return None
        parked = self._parking.take(request.template)
        if parked is not None:
            need = Need(self._settings.admission.fork_private_bytes)
            self._machines.promise(parked.id, need, force=True)
        return parked

    def _new(self, session_id: str, facts: SessionFacts) -> Session:
        if not facts.ends_clock_s:
            ends_s = self._clock.time() + (facts.expires_at_s - facts.created_at_s)
            facts = structs.replace(facts, ends_clock_s=ends_s)
        session = Session(session_id, facts, facts.ends_clock_s)
        self._live[session_id] = session
        return session

    def _begin(self, session: Session, ready: Ready) -> None:
        """From here on the session owns the machine. Does not await."""
        session.facts = structs.replace(
            session.facts, hostname=ready.hostname, stages_ms=dict(ready.stages_ms)
        )
        self._machines.note_running(ready.machine.vm.record, session.facts)
        session.machine = ready.machine
        session.last_used_s = self._clock.time()
        session.advance(SessionEvent.STARTED)
        self._expiry.add(session.id)
        session.watcher = self._tasks.start(f"session-watch:{session.id}", self._watch(session))

    def _report(self, session: Session, start: str) -> None:
        facts = session.facts
        self._records.session_started(
            session.id,
            facts.template,
            facts.mode.value,
            facts.created_at_s,
            facts.stages_ms.get("total", 0.0),
        )
        self._tracer.step(
            "session.ready",
            session=session.id,
            template=facts.template,
            start=start,
            **{f"{stage}_ms": value for stage, value in facts.stages_ms.items()},
        )

    async def _abandon(
        self, session: Session, ready: Ready | None, exc: BaseException, total_ms: float
    ) -> None:
        if ready is not None:
            machine = ready.machine
            await self._machines.end(session.id, machine.vm, machine.channel, "not_begun")
        del self._live[session.id]
        session.leases.close()
        code = exc.code if isinstance(exc, SnapStartError) else ErrorCode.INTERNAL
        is_cancelled = isinstance(exc, asyncio.CancelledError)
        self._tracer.step(
            "session.failed",
            session=session.id,
            template=session.facts.template,
            code="cancelled" if is_cancelled else code.value,
            error="the client went away" if is_cancelled else str(exc),
            total_ms=total_ms,
        )

    def _require_open(self) -> None:
        if not self._is_open:
            raise TransientError(
                ErrorCode.SHUTTING_DOWN,
                "creating a session: the daemon is stopping",
                hint="try again once it is back",
            )

    # -- using ------------------------------------------------------------------------------

    @asynccontextmanager
    async def use(self, session_id: str) -> AsyncIterator[Machine]:
        """Lend a session's machine for one request; it is not idle meanwhile.

        While its channel is lost, waits until there is another, or the session has ended: at most
        `deadlines.adopt_s`.
        Raises: UsageError SESSION_NOT_FOUND, SESSION_ENDED, also when it ends within the block.
        """
        session = self.get(session_id)
        session.require_ready()
        session.uses += 1
        try:
            machine = await self._connected(session)
        except BaseException:
            session.uses -= 1
            raise
        try:
            yield machine
        except PeerError as exc:
            words = await last_words(machine.vm) if machine.channel.closed.done() else ""
            if words:
                self._begin_end(session, EndReason.VM_DIED, words)
            if session.state is not SessionState.READY:
                raise ended_error(session_id, session.ended_reason) from exc
            raise
        finally:
            session.uses -= 1
            session.last_used_s = self._clock.time()

    async def _connected(self, session: Session) -> Machine:
        while (machine := session.require_ready()).channel.closed.done():
            await session.changed.wait()
        return machine

    # -- ending -----------------------------------------------------------------------------

    async def wait_ended(self, session: Session) -> str:
        """Wait until a session has ended, its machine is gone. Returns: the reason."""
        while session.ending is None:
            await session.changed.wait()
        await asyncio.shield(session.ending)
        return session.ended_reason

    async def end(self, session_id: str, reason: EndReason) -> None:
        """End a session; one that ended already is no error. Cancellation: it ends all the same.

        Raises: UsageError SESSION_NOT_FOUND, or when it is still starting.
        """
        session = self.get(session_id)
        if session.state is SessionState.STARTING:
            session.require_ready()
        await asyncio.shield(self._begin_end(session, reason, ""))

    def _begin_end(self, session: Session, reason: EndReason, detail: str) -> asyncio.Task[None]:
        if session.ending is None:
            session.advance(SessionEvent.END)
            session.ended_reason = f"{reason.value}: {detail}" if detail else reason.value
            session.ending = self._tasks.start(
                f"session-end:{session.id}", self._finish(session, reason)
            )
            session.note_change()
        return session.ending

    async def _finish(self, session: Session, reason: EndReason) -> None:
        machine = session.machine
        if session.watcher is not None:
            session.watcher.cancel()
        try:
            if machine is not None:
                await self._machines.end(session.id, machine.vm, machine.channel, reason.value)
        finally:
            self._forget(session, reason)

    def _forget(self, session: Session, reason: EndReason) -> None:
        session.advance(SessionEvent.GONE)
        session.machine = None
        session.leases.close()
        del self._live[session.id]
        self._ended[session.id] = session
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        self._records.session_ended(session.id, self._now_s(), session.ended_reason)
        self._tracer.step(
            "session.ended",
            session=session.id,
            template=session.facts.template,
            reason=reason.value,
            detail=session.ended_reason,
        )

    # -- watching ---------------------------------------------------------------------------

    async def _watch(self, session: Session) -> None:
        loss = await watch(session, self._tracer, adopt_s=self._settings.deadlines.adopt_s)
        if loss is not None:
            self._begin_end(session, loss.reason, loss.detail)

    def _due_s(self, session_id: str) -> float | None:
        session = self._live.get(session_id)
        return None if session is None else session.due_s(self._clock.time())

    def _on_due(self, session_id: str) -> None:
        session = self._live[session_id]
        is_over = session.expires_s <= self._clock.time()
        self._begin_end(session, EndReason.EXPIRED if is_over else EndReason.IDLE, "")

    # -- handing over -----------------------------------------------------------------------

    async def adopt(self, action: AdoptSession, vm: Vm) -> bool:
        """Carry on a predecessor's session. Returns: False if its guest does not answer."""
        facts = action.facts
        need = self._starter.need_of(facts.mode, self._shape_of(facts), Role.SESSION)
        self._machines.promise(action.vm_id, need, force=True)
        try:
            channel = await GuestChannel.connect(
                vm.channel_path,
                deadline_s=self._settings.deadlines.adopt_s,
                prelude=vm.channel_prelude,
            )
        except SnapStartError as exc:
            self._tracer.step("adoption.failed", session=action.vm_id, error=str(exc))
            await self._machines.end(action.vm_id, vm, None, "unreachable")
            return False
        session = self._new(action.vm_id, facts)
        with contextlib.suppress(SnapStartError):  # a template may be gone before its last fork
            session.leases.enter_context(self._templates.lease(facts.template))
        self._begin(session, Ready(Machine(vm, channel), facts.hostname, facts.stages_ms))
        self._tracer.step(
            "session.ready", session=session.id, template=facts.template, start="adopted"
        )
        return True

    def _shape_of(self, facts: SessionFacts) -> Shape | None:
        if facts.memory_mib:
            return Shape(facts.memory_mib, 1)
        template = self._templates.find(facts.template)
        return None if template is None else template.machine

    def refuse(self) -> None:
        """No session is created from here on."""
        self._is_open = False

    async def release(self) -> None:
        """Leave every session to a successor: its machine runs on, nothing here watches it.

        Sessions that are starting are given up, those that end already go on ending.
        """
        self._is_open = False
        self._expiry.close()
        for task in self._creating:
            task.cancel()
        if self._creating:
            await asyncio.wait(self._creating)
        ready = [s for s in self._live.values() if s.state is SessionState.READY]
        for session in ready:
            del self._live[session.id]
            session.leases.close()
            if session.watcher is not None:
                session.watcher.cancel()
            machine, session.machine = session.machine, None
            session.note_change()
            if machine is not None:
                await machine.channel.close()
                machine.vm.release()


def _since_ms(begun_s: float) -> float:
    return round((time.perf_counter() - begun_s) * 1000, 3)
