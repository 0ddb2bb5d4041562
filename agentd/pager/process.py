"""Keep a page server running: use the one that answers, start one where none does.

Machines wait in their faults while there is none, and some cannot outlive it; so nothing here ever
ends a page server, not even one that does not answer. Under systemd it is a unit of its own, and
is found by its socket like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import psutil

from agentd import native
from agentd.errors import ConfigError, ErrorCode, SnapStartError, TransientError
from agentd.native import Process, SpawnRequest
from agentd.pager.client import PagerClient
from agentd.pager.places import PagerPlace
from agentd.wire.pager import About

# To take the journal's lock, to read the journal, to take over a few hundred machines.
START_S: Final = 10.0
_GREET_S: Final = 0.5
_NAME: Final = "snap-pager"
_LOG_TAIL_BYTES: Final = 2048
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Step(Protocol):
    """Told of each step, as `agentd.engine.trace.Tracer.step` is."""

    def __call__(self, event: str, /, **details: str | int | float) -> None:
        """event: a dotted name."""


class PagerProcess:
    """The page server of one control socket.

    Args: place: how it is started. log_file: where one that we start writes its log.
    """

    def __init__(self, place: PagerPlace, log_file: Path, step: Step) -> None:
        self._place = place
        self._log_file = log_file
        self._step = step
        self._client = PagerClient(place.control_socket)
        self._started: Process | None = None
        self._ended: asyncio.Event = asyncio.Event()

    async def ensure(self, *, deadline_s: float = START_S) -> About:
        """Have one that answers.

        Raises: ConfigError if it cannot be started; TransientError if it does not answer in time:
        it goes on trying. Cancellation: leaves what was started.
        """
        with contextlib.suppress(TransientError):
            return await self._client.hello(deadline_s=_GREET_S)
        if not await asyncio.to_thread(is_running, self._place.control_socket):
            await self._start()
        return await self._answer(deadline_s)

    def close(self) -> None:
        """Leave it to run on. Idempotent."""
        process, self._started = self._started, None
        if process is not None:
            asyncio.get_running_loop().remove_reader(process.pidfd)
            os.close(process.pidfd)

    async def _start(self) -> None:
        self.close()
        self._ended.clear()
        process = await asyncio.to_thread(start, self._place, self._log_file)
        self._started = process
        asyncio.get_running_loop().add_reader(process.pidfd, self._on_end)
        self._step("pager.started", pid=process.pid, control=str(self._place.control_socket))

    def _on_end(self) -> None:
        process = self._started
        assert process is not None
        status = _reap(process)
        self.close()
        self._ended.set()
        self._step("pager.failed", pid=process.pid, status=status)

    async def _answer(self, deadline_s: float) -> About:
        greeting = asyncio.create_task(self._client.hello(deadline_s=deadline_s))
        ending = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({greeting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if greeting.done():
                return await greeting
        except TransientError as exc:
            raise self._silent(exc.message) from exc
        finally:
            await _cancelled(greeting, ending)
        raise self._silent("it ended at once")

    def _silent(self, why: str) -> SnapStartError:
        tail = _tail(self._log_file)
        said = f"; its log ends with {tail!r}" if tail else ""
        return TransientError(
            ErrorCode.DEADLINE_EXCEEDED,
            f"starting the page server for {str(self._place.control_socket)!r}: {why}{said}",
            hint="`snapctl doctor --pager` says what it needs; machines map files until it answers",
        )


def start(place: PagerPlace, log_file: Path) -> Process:
    """Start a page server that outlives this process, under a supervisor of its own. Blocks.

    Returns: owned by the caller, who must reap it. Raises: ConfigError, TransientError.
    """
    if not os.access(place.binary, os.X_OK):
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"starting the page server: {str(place.binary)!r} is no program",
            hint="build it with `make native`, or set pager.binary, or pager.enabled = off",
        )
    _make_journal_dir(place.journal_dir)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        log_fd = os.open(log_file, flags, 0o600)
    except OSError as exc:
        message = f"starting the page server: opening {str(log_file)!r}: {exc.strerror}"
        raise ConfigError(ErrorCode.PERMISSION_DENIED, message, hint="see paths.run_dir") from exc
    try:
        argv = place.argv("supervise")
        return native.spawn(SpawnRequest(str(place.binary), argv, _ENVIRONMENT, {}, log_fd))
    finally:
        os.close(log_fd)


def _make_journal_dir(path: Path) -> None:
    """Raises: ConfigError if somebody else could have made it to read what is in it."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as exc:
        why = f"{exc.strerror}"
    else:
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            return
        why = f"it is no directory of uid {os.geteuid()}"
    raise ConfigError(
        ErrorCode.PERMISSION_DENIED,
        f"making the page server's journal directory {str(path)!r}: {why}",
        hint="remove it, or set pager.journal_dir",
    )


def is_running(control_socket: Path) -> bool:
    """Whether a page server for this socket runs, whatever keeps it from answering. Blocks.

    Anybody can give a process any name: only root's and our own count.
    """
    return any(_is_one(process, str(control_socket)) for process in psutil.process_iter())


def _is_one(process: psutil.Process, control_socket: str) -> bool:
    try:
        is_named = is_command(process.cmdline(), control_socket)
        return is_named and process.uids().effective in (0, os.geteuid())
    except (psutil.Error, OSError):  # it ended, or is hidden from us
        return False


def is_command(argv: Sequence[str], control_socket: str) -> bool:
    """Whether these arguments are a page server's, or its supervisor's, for this socket."""
    if not argv or os.path.basename(argv[0]) != _NAME or "--control" not in argv[:-1]:
        return False
    return argv[argv.index("--control") + 1] == control_socket


def _reap(process: Process) -> str:
    try:
        result = os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED)
    except ChildProcessError:  # reaped by somebody else: it has ended all the same
        return "unknown"
    if result is None:
        return "unknown"
    if result.si_code == os.CLD_EXITED:
        return f"exited with status {result.si_status}"
    return f"was killed by {signal.Signals(result.si_status).name}"


async def _cancelled(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _tail(path: Path) -> str:
    """The last lines of a log, empty if there are none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return stream.read().decode(errors="replace").strip()
    except OSError:
        return ""
