"""Notice when a monitor makes its socket (inotify(7))."""

from __future__ import annotations

import asyncio
import ctypes
import enum
import os
import socket
import struct
from pathlib import Path
from typing import Final

from agentd.errors import ErrorCode, TransientError
from agentd.vmm.http_socket import pin, pinned_path

_IN_CREATE: Final = 0x100
_IN_ONLYDIR: Final = 0x01000000
_IN_Q_OVERFLOW: Final = 0x4000
_EVENT: Final = struct.Struct("iIII")
_READ_BYTES: Final = 65536
# Between bind(2) and listen(2), which nothing announces; a monitor does both in one go.
_PAUSE_S: Final = 0.0005

_libc = ctypes.CDLL(None, use_errno=True)


class _Seen(enum.Enum):
    NOTHING = enum.auto()
    BOUND = enum.auto()
    LISTENING = enum.auto()


class Arrivals:
    """One inotify instance for all starts: closing one can take the kernel many milliseconds
    (native/core/watch.h). Use in one event loop at a time; the owner must `close` it.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[int, asyncio.Event] = {}

    async def wait(self, path: Path, *, deadline_s: float) -> None:
        """Wait until somebody listens on a socket, in a directory that exists.

        Raises: TransientError DEADLINE_EXCEEDED; OSError. Cancellation: harmless.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self._wait(path)
        except TimeoutError as exc:
            raise TransientError(
                ErrorCode.DEADLINE_EXCEEDED,
                f"waiting for {str(path)!r}: nobody listens on it after {deadline_s:g} s",
                hint="the host may be overloaded; look at the monitor's log",
            ) from exc

    async def _wait(self, path: Path) -> None:
        appeared = asyncio.Event()
        number = self._watch(path.parent, appeared)
        try:
            while True:
                appeared.clear()
                match _look(path):
                    case _Seen.LISTENING:
                        return
                    case _Seen.BOUND:
                        await asyncio.sleep(_PAUSE_S)
                    case _Seen.NOTHING:
                        await appeared.wait()
        finally:
            self._unwatch(number)

    def _watch(self, directory: Path, appeared: asyncio.Event) -> int:
        self._open()
        mask = _IN_CREATE | _IN_ONLYDIR
        number = _checked(_libc.inotify_add_watch(self._fd, os.fsencode(directory), mask))
        self._waiting[number] = appeared
        return number

    def _unwatch(self, number: int) -> None:
        if self._waiting.pop(number, None) is not None and self._fd >= 0:
            _libc.inotify_rm_watch(self._fd, number)  # fails when the directory is gone

    def _open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._fd >= 0 and self._loop is loop:
            return
        self.close()
        self._fd = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        self._loop = loop
        loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        events = os.read(self._fd, _READ_BYTES)
        at = 0
        while at < len(events):
            number, mask, _cookie, size = _EVENT.unpack_from(events, at)
            at += _EVENT.size + size
            for other, appeared in self._waiting.items():
                if other == number or mask & _IN_Q_OVERFLOW:
                    appeared.set()

    def close(self) -> None:
        """Give it back. Nobody may be waiting. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(fd)
        os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _look(path: Path) -> _Seen:
    try:
        fd = pin(path)
    except FileNotFoundError:
        return _Seen.NOTHING
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(pinned_path(fd))
    except ConnectionRefusedError:
        return _Seen.BOUND
    except BlockingIOError:  # it has many to serve
        return _Seen.LISTENING
    finally:
        os.close(fd)
    return _Seen.LISTENING
