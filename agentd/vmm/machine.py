"""Own one machine's process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import InvariantError
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.qmp import read_console
from agentd.vmm.vmm import VmRecord
from agentd.wire.manifest import Machine as Shape

CHANNEL_SOCKET: Final = "channel.sock"
QMP_SOCKET: Final = "qmp.sock"
LOG_FILE: Final = "vmm.log"
_CONSOLE_CHARS: Final = 4096
_RELEASED: Final = "released"
_GROUP_PAUSES_S: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Booted:
    """The RAM of a machine that was booted: a memfd owned by whoever holds this, its shape."""

    memory_fd: int
    shape: Shape


class ConsoleLog:
    """What a guest wrote to its console from its boot on, kept beyond the end of its machine.

    A memfd: QEMU writes it through a descriptor, and needs no path that its user could reach. It
    ends where RLIMIT_FSIZE does. `close` gives it back.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def tail(self) -> str:
        """The last text in it, at most 4 KiB; empty after `close`."""
        if self._fd < 0:
            return ""
        start = max(0, os.fstat(self._fd).st_size - _CONSOLE_CHARS)
        return os.pread(self._fd, _CONSOLE_CHARS, start).decode(errors="replace")

    def close(self) -> None:
        """Give the memory back. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Machine:
    """One running machine. Implements `agentd.vmm.vmm.Vm`.

    Args: record: how to find it. pidfd: owned from now on. is_child: whether we must reap it.
    cgroups: where its control group is. booted: what a checkpoint needs; None for a fork.
    console: of a machine that was booted; owned from now on. has_network_device: see `Vm`.
    """

    def __init__(
        self,
        record: VmRecord,
        pidfd: int,
        *,
        is_child: bool,
        cgroups: CgroupTree,
        booted: Booted | None = None,
        console: ConsoleLog | None = None,
        has_network_device: bool = False,
    ) -> None:
        self._booted = booted
        self._log = console
        self.has_network_device = has_network_device
        self._cgroups = cgroups
        self._record = record
        self._pidfd = pidfd
        self._is_child = is_child
        self._ended: str | None = None
        self._exit: asyncio.Future[str] | None = None
        self._console = ""

    def __repr__(self) -> str:
        state = self._ended or ("running" if self._pidfd >= 0 else _RELEASED)
        return f"<Machine {self._record.vm_id} pid={self._record.pid} {state}>"

    @property
    def record(self) -> VmRecord:
        """What a successor needs to find this machine."""
        return self._record

    @property
    def channel_path(self) -> Path:
        """The socket of the guest channel."""
        return self._record.run_dir / CHANNEL_SOCKET

    @property
    def channel_prelude(self) -> bytes:
        """What a new connection to it begins with: it is the guest itself."""
        return b""

    @property
    def is_running(self) -> bool:
        """False once the process is known to have ended."""
        return self._ended is None

    def take_memory(self) -> Booted:
        """Hand its RAM to the caller. Raises: InvariantError for a machine without its own."""
        booted, self._booted = self._booted, None
        if booted is None:
            raise InvariantError(f"{self!r} does not own its memory")
        return booted

    async def wait(self) -> str:
        """Wait for the process's end; returns how it ended, or "released". Cancellation: harmless.

        The event loop that waits first is the one that learns of the end, until it is closed.
        """
        if self._ended is not None or self._pidfd < 0:
            return self._ended or _RELEASED
        if self._exit is None or self._exit.get_loop().is_closed():
            loop = asyncio.get_running_loop()
            self._exit = loop.create_future()
            loop.add_reader(self._pidfd, self._note_exit)
        return await asyncio.shield(self._exit)

    def _note_exit(self) -> None:
        self._ended = self._reap()
        self._drop_pidfd(self._ended)

    def _drop_pidfd(self, outcome: str) -> None:
        fd, self._pidfd = self._pidfd, -1
        if fd < 0:
            return
        if self._exit is not None and not self._exit.get_loop().is_closed():
            self._exit.get_loop().remove_reader(fd)
            self._exit.set_result(outcome)
        os.close(fd)

    def _reap(self) -> str:
        if not self._is_child:
            return "ended"
        try:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:  # reaped by somebody else: it has ended all the same
            result = None
        if result is None:
            return "ended"
        if result.si_code == os.CLD_EXITED:
            return f"exited with status {result.si_status}"
        return f"was killed by {signal.Signals(result.si_status).name}"

    async def kill(self) -> None:
        """End the process, reap it, remove its directory. Idempotent; leaves a released one alone.

        Cancellation: comes after it. SIGKILL is not refused, so that is soon.
        """
        cancelled = False
        if self._ended is None and self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            cancelled = await self._outlast()
        if self._ended is not None:
            self._close_files()
            shutil.rmtree(self._record.run_dir, ignore_errors=True)
            cancelled = await self._remove_cgroup() or cancelled
        if cancelled:
            raise asyncio.CancelledError

    async def _outlast(self) -> bool:
        """Wait for the end however often we are cancelled; returns whether we were."""
        cancelled = False
        while self._ended is None and self._pidfd >= 0:
            try:
                await self.wait()
            except asyncio.CancelledError:
                cancelled = True
        return cancelled

    async def _remove_cgroup(self) -> bool:
        """Remove its control group, in which KVM has a thread of the kernel that ends a moment
        after the machine; returns whether we were cancelled, which ends the waiting for that.
        """
        self._cgroups.remove(self._record.vm_id)
        try:
            for pause_s in _GROUP_PAUSES_S:
                if not self._cgroups.has(self._record.vm_id):
                    break
                await asyncio.sleep(pause_s)
                self._cgroups.remove(self._record.vm_id)
        except asyncio.CancelledError:
            self._cgroups.remove(self._record.vm_id)
            return True
        return False

    def release(self) -> None:
        """Let the process live on for a successor; who waits hears "released". Idempotent."""
        self._close_files()
        self._drop_pidfd(_RELEASED)

    def _close_files(self) -> None:
        if self._log is not None:
            self._log.close()
        if self._booted is not None:
            os.close(self.take_memory().memory_fd)

    async def console_tail(self, *, deadline_s: float) -> str:
        """The last text on the guest's console; what was seen so far when the monitor is mute.

        The monitor gives each byte once, so what it gave is kept here. What it no longer gives, as
        after its end, is read from the log if there is one.
        """
        text = await read_console(self._record.run_dir / QMP_SOCKET, deadline_s=deadline_s)
        self._console = (self._console + text)[-_CONSOLE_CHARS:]
        logged = "" if text or self._log is None else self._log.tail()
        return logged or self._console

    def __del__(self) -> None:
        if self._pidfd >= 0:
            warnings.warn(
                f"{self!r} was neither killed nor released", ResourceWarning, stacklevel=2
            )
            self.release()
