"""Hold what one start of a Cloud Hypervisor needs until it is over."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from agentd.vmm import cloud_hypervisor_config as names
from agentd.vmm.machine import LOG_FILE

API_SOCKET: Final = "api.sock"
DIRECTORY: Final = "vm"
_BACKLOG: Final = 16


class Launch:
    """Socket, directory, files of one start; `close` gives back all that was not kept.

    The monitor inherits a listening socket, so that whoever connects need not wait until it is
    there; and a directory that belongs to the machine's user, which is all that it can reach.

    user: who the machine runs as, None for ourselves. Raises: OSError, from every method; what was
    opened stays owned.
    """

    def __init__(self, vm_id: str, run_dir: Path, user: tuple[int, int] | None) -> None:
        self.vm_id = vm_id
        self.run_dir = run_dir
        self.user = user
        self.inherited: dict[int, int] = {}
        self.cgroup_fd = -1
        self.log_fd = -1
        self.directory_fd = -1
        self._kept: set[int] = set()
        self._owned = ExitStack()

    @property
    def api_path(self) -> Path:
        """The socket of the monitor's interface."""
        return self.run_dir / API_SOCKET

    def open(self) -> None:
        """Listen for the interface, open the log, make the machine's directory."""
        server = self._owned.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        server.bind(str(self.api_path))
        server.listen(_BACKLOG)
        self.inherited[names.API_FD] = server.fileno()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.log_fd = self.own(os.open(self.run_dir / LOG_FILE, flags, 0o600))
        self.directory_fd = self.own(make_directory(self.run_dir / DIRECTORY, self.user))
        self.inherited[names.DIRECTORY_FD] = self.directory_fd

    def own(self, fd: int) -> int:
        """Close this descriptor when the start is over, unless it is kept."""
        self._owned.callback(self._close_unless_kept, fd)
        return fd

    def _close_unless_kept(self, fd: int) -> None:
        if fd not in self._kept:
            os.close(fd)

    def keep(self, fd: int) -> int:
        """Hand an owned descriptor to the caller."""
        self._kept.add(fd)
        return fd

    def inherit(self, fd: int, number: int) -> None:
        """Let the machine have a borrowed descriptor under a number."""
        self.inherited[number] = fd

    def inherit_file(self, path: Path, number: int) -> None:
        """Let the machine read a file that its user could not reach by path."""
        self.inherit(self.own(os.open(path, os.O_RDONLY | os.O_CLOEXEC)), number)

    def write(self, name: str, data: bytes) -> None:
        """Make a file in the machine's directory."""
        write_file(self.directory_fd, name, data, self.user)

    def link(self, name: str, target: str) -> None:
        """Give a path another name in the machine's directory."""
        os.symlink(target, name, dir_fd=self.directory_fd)

    def remove(self, name: str) -> None:
        """Take a name out of the machine's directory, if its user has left it there."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.directory_fd)

    def close(self) -> None:
        """Give back what was not kept. Idempotent."""
        self._owned.close()


def make_directory(path: Path, user: tuple[int, int] | None) -> int:
    """Make an empty directory of a user; returns it open, owned by the caller. Raises: OSError."""
    path.mkdir(mode=0o700)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give(fd, user)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_file(
    directory_fd: int, name: str, data: bytes, user: tuple[int, int] | None = None
) -> None:
    """Make a file of a user. Raises: OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=directory_fd)
    try:
        _give(fd, user)
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
    finally:
        os.close(fd)


def _give(fd: int, user: tuple[int, int] | None) -> None:
    if user is not None:
        os.fchown(fd, *user)
