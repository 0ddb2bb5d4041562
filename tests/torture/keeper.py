"""Keep descriptors for a process that may die, as systemd's file descriptor store does.

The protocol is that of sd_notify(3) and sd_listen_fds(3): datagrams to NOTIFY_SOCKET say
`FDSTORE=1`, `FDNAME=...` with descriptors, `FDSTOREREMOVE=1`, or `BARRIER=1` with a descriptor that
is closed when all before it was heard. What is kept is given to the next process at 3 and up, with
LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FIRST_FD: Final = 3
_MESSAGE_BYTES: Final = 4096
_MOST_FDS: Final = 253
_CREDENTIALS: Final = struct.Struct("3i")


@dataclass(frozen=True)
class Kept:
    """One descriptor in the store; owned by the keeper."""

    name: str
    fd: int


class Keeper:
    """The store and its socket. It belongs to the running event loop.

    is_ready: the process that runs now has said so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: list[Kept] = []
        self.is_ready = asyncio.Event()
        self._main_pid = 0
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        asyncio.get_running_loop().add_reader(self._socket, self.hear)

    def close(self) -> None:
        """Close everything that is kept, too. Idempotent."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self.path.unlink(missing_ok=True)
        while self.kept:
            os.close(self.kept.pop().fd)

    def spawn(
        self, argv: Sequence[str], environment: Mapping[str, str], log_file: Path | None
    ) -> int:
        """Start the process that is heard from now on, with what its predecessor left.

        Returns: its pid; the caller has to wait for it. log_file: for its stderr, appended to.
        """
        self.hear()
        self.is_ready.clear()
        names = ":".join(one.name for one in self.kept)
        told = {
            **environment,
            "NOTIFY_SOCKET": str(self.path),
            "LISTEN_FDS": str(len(self.kept)),
            "LISTEN_FDNAMES": names,
        }
        self._main_pid = spawn(argv, told, [one.fd for one in self.kept], log_file)
        return self._main_pid

    def hear(self) -> None:
        """Carry out every message that has come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                text, fds, pid = self._receive()
                # As with NotifyAccess=main: only the process that was started last.
                self._obey(_pairs(text) if pid == self._main_pid else {}, fds)

    def _receive(self) -> tuple[bytes, list[int], int]:
        space = socket.CMSG_SPACE(_MOST_FDS * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)
        text, items, _, _ = self._socket.recvmsg(_MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        fds, pid = array.array("i"), 0
        for level, kind, data in items:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
        return text, list(fds), pid

    def _obey(self, said: Mapping[str, str], fds: list[int]) -> None:
        name = said.get("FDNAME", "stored")
        if said.get("READY") == "1":
            self.is_ready.set()
        if said.get("FDSTOREREMOVE") == "1":
            self._forget(name)
        elif said.get("FDSTORE") == "1":
            while fds:
                self._keep(name, fds.pop(0))
        # Closing what came with a barrier is its answer.
        for fd in fds:
            os.close(fd)

    def _keep(self, name: str, fd: int) -> None:
        about = os.fstat(fd)
        if any(one.name == name and os.path.samestat(os.fstat(one.fd), about) for one in self.kept):
            os.close(fd)
        else:
            self.kept.append(Kept(name, fd))

    def _forget(self, name: str) -> None:
        for one in self.kept:
            if one.name == name:
                os.close(one.fd)
        self.kept = [one for one in self.kept if one.name != name]


def spawn(
    argv: Sequence[str],
    environment: Mapping[str, str],
    fds: Sequence[int],
    log_file: Path | None,
) -> int:
    """Start a process with `fds` at 3 and up, and LISTEN_PID. Returns: its pid, to be waited for.

    log_file: for its stderr, appended to; None: ours.
    """
    _keep_to_ourselves()
    # Out of the way first: a target may be the source of another.
    sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD + len(fds)) for fd in fds]
    actions: list[tuple[object, ...]] = [
        (os.POSIX_SPAWN_DUP2, source, _FIRST_FD + index) for index, source in enumerate(sources)
    ]
    if log_file is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions.append((os.POSIX_SPAWN_OPEN, 2, str(log_file), flags, 0o600))
    # The pid is known only in the process itself; a shell keeps it over exec.
    shell = ["/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh", *argv]
    try:
        return os.posix_spawn(shell[0], shell, dict(environment), file_actions=actions)
    finally:
        for source in sources:
            os.close(source)


def _keep_to_ourselves() -> None:
    """Whoever started us may have left us descriptors that every child would have, too."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2:
                os.set_inheritable(int(name), False)


def _pairs(text: bytes) -> dict[str, str]:
    lines = text.decode("utf-8", "replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)
