"""Start machines, end them, account for them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from agentd.engine.journal import Journal
from agentd.engine.journal_records import (
    Role,
    SessionFacts,
    VmEnding,
    VmGone,
    VmIntended,
    VmRunning,
)
from agentd.engine.plans import Need, NodeLimits, NodeLoad, Pace, choose_admission
from agentd.engine.session import Machine
from agentd.engine.tasks import uninterrupted
from agentd.engine.trace import Tracer
from agentd.errors import ErrorCode, TransientError
from agentd.store.failures import WRITING, translated
from agentd.units import MIB
from agentd.vmm.vmm import Started, Vm, VmRecord
from agentd.warmfork.channel import GuestChannel

BOOT_OVERHEAD_BYTES: Final = 96 * MIB  # the monitor around a machine that is not a fork
# An id may have been read from the arguments of a process that somebody else started: it must name
# a directory of ours and nothing beside it.
_VM_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
Launch = Callable[[Path, float], Awaitable[Started]]


class Machines:
    """Every machine of this daemon: run directory, journal entry, promise of memory.

    The order is always the same. Up: promise, journal, directory, process. Down: journal, process,
    directory, journal, promise. So whatever happens in between, a successor finds the machine.

    Args: run_dir: one directory per machine is made below it. template_bytes, available_bytes:
    asked at each admission. concurrent: starts at the same moment.
    """

    def __init__(
        self,
        journal: Journal,
        run_dir: Path,
        limits: NodeLimits,
        tracer: Tracer,
        *,
        concurrent: int,
        template_bytes: Callable[[], int],
        available_bytes: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._run_dir = run_dir
        self.limits = limits
        self._tracer = tracer
        self._template_bytes = template_bytes
        self._available_bytes = available_bytes
        self._slots = asyncio.Semaphore(concurrent)
        self._concurrent = concurrent
        self._pace = Pace()
        self._waiting = 0
        self._promises: dict[str, Need] = {}

    @property
    def reserved_bytes(self) -> int:
        """The sum of all promises."""
        return sum(need.memory_bytes for need in self._promises.values())

    def is_known(self, vm_id: str) -> bool:
        """True from before a machine starts until all of it is gone."""
        return vm_id in self._journal.state.vms

    def promise(self, vm_id: str, need: Need, *, force: bool = False) -> None:
        """Set memory aside for a machine. force: it runs already. Raises: TransientError."""
        refusal = None if force else choose_admission(need, self._load(), self.limits)
        if refusal is not None:
            self._tracer.step("machine.refused", vm=vm_id, code=refusal.code.value)
            raise refusal.error()
        self._promises[vm_id] = need

    def note_turn(self, took_s: float, *, is_over: bool) -> None:
        """A fork gave its turn back after so long. is_over: it was started, not cut short."""
        self._pace = self._pace.after(took_s) if is_over else self._pace.after_cut(took_s)

    @property
    def has_session_room(self) -> bool:
        """False when the limit of live sessions is reached."""
        return self._sessions() < self.limits.max_sessions

    def withdraw(self, vm_id: str) -> None:
        """Give a promise back. Idempotent."""
        self._promises.pop(vm_id, None)

    @asynccontextmanager
    async def intended(self, vm_id: str, role: Role) -> AsyncIterator[Path]:
        """Announce a machine, make its run directory; leaving by an exception removes both."""
        path = self._run_dir / vm_id
        self._journal.append(VmIntended(vm_id, role, str(path)))
        self._tracer.step("machine.intended", vm=vm_id, role=role.value)
        try:
            with translated(f"making the run directory {str(path)!r}", WRITING):
                path.mkdir(mode=0o700)
            yield path
        except BaseException:
            await uninterrupted(self.forget(vm_id))
            raise

    async def launch(
        self, vm_id: str, role: Role, launch: Launch, *, deadline_s: float
    ) -> tuple[Machine, Started]:
        """Start a machine that was promised memory, waiting for a slot.

        The caller says with `note_running` what it has become; until then a successor ends it.
        Args: launch: starts it in a run directory within the seconds that are left.
        Raises: what launch raises; TransientError if no slot came free in time.
        Cancellation: leaves no machine behind.
        """
        ends_at = asyncio.get_running_loop().time() + deadline_s
        async with self._slot(deadline_s), self.intended(vm_id, role) as run_dir:
            left_s = ends_at - asyncio.get_running_loop().time()
            with translated(f"starting machine {vm_id!r}", WRITING):
                started = await launch(run_dir, left_s)
            self._tracer.step("machine.started", vm=vm_id)
            try:
                with translated(f"starting machine {vm_id!r}", WRITING):
                    channel = await GuestChannel.over(started.channel, name=vm_id)
            except BaseException:
                started.channel.sock.close()
                await uninterrupted(started.vm.kill())
                raise
            return Machine(started.vm, channel), started

    def note_running(self, record: VmRecord, facts: SessionFacts | None) -> None:
        """Record which process a machine is, for which session; None while it has none."""
        self._journal.append(VmRunning(record.vm_id, record.pid, record.create_time_ticks, facts))
        self._tracer.step("machine.running", vm=record.vm_id, pid=record.pid)

    async def end(self, vm_id: str, vm: Vm, channel: GuestChannel | None, reason: str) -> None:
        """End a machine, remove what it leaves, withdraw its promise. Cancellation: afterwards."""
        await uninterrupted(self._end(vm_id, vm, channel, reason))

    async def _end(self, vm_id: str, vm: Vm, channel: GuestChannel | None, reason: str) -> None:
        self._announce_end(vm_id, reason)
        try:
            if channel is not None:
                await channel.close()
        finally:
            await vm.kill()
            self._tracer.step("machine.killed", vm=vm_id)
            await self.forget(vm_id)

    async def forget(self, vm_id: str) -> None:
        """Remove the run directory and the journal entry of a machine that does not run."""
        path = self._run_dir / vm_id
        # One that ran has taken its directory with it, as a rule: no thread for nothing.
        if _VM_ID.fullmatch(vm_id) and _is_there(path):
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
        self._tracer.step("machine.cleaned", vm=vm_id)
        self._append_quietly(VmGone(vm_id))
        self._tracer.step("machine.gone", vm=vm_id)
        self.withdraw(vm_id)

    def _announce_end(self, vm_id: str, reason: str) -> None:
        self._append_quietly(VmEnding(vm_id, reason))
        self._tracer.step("machine.ending", vm=vm_id, reason=reason)

    def _append_quietly(self, record: VmEnding | VmGone) -> None:
        """A full disk must not keep a machine alive: a successor finds out by itself."""
        try:
            self._journal.append(record)
        except TransientError as exc:
            self._tracer.step("journal.failed", vm=record.vm_id, error=str(exc))

    @asynccontextmanager
    async def _slot(self, deadline_s: float) -> AsyncIterator[None]:
        self._waiting += 1
        try:
            async with asyncio.timeout(deadline_s):
                await self._slots.acquire()
        except TimeoutError as exc:
            raise TransientError(
                ErrorCode.NODE_FULL,
                f"starting a machine: other starts took all of {deadline_s:g} s",
                hint="try again, or raise admission.concurrent_forks",
            ) from exc
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    def _load(self) -> NodeLoad:
        return NodeLoad(
            reserved_bytes=self.reserved_bytes,
            template_bytes=self._template_bytes(),
            available_bytes=self._available_bytes(),
            sessions=self._sessions(),
            waiting=self._waiting,
            expected_s=self._pace.expected_s(self._waiting, self._concurrent),
            has_turn=not self._slots.locked(),
        )

    def _sessions(self) -> int:
        return sum(need.is_session for need in self._promises.values())


def _is_there(path: Path) -> bool:
    """One look at a tmpfs: dearer to hand over to a thread than to do."""
    return os.path.lexists(path)
