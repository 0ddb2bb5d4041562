"""Hold what one start of a Firecracker needs until it is over."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from agentd.vmm import firecracker_config as names
from agentd.vmm.firecracker_console import create_console
from agentd.vmm.machine import LOG_FILE

DIRECTORY: Final = "vm"


class Launch:
    """Directory, files of one start; `close` gives back all that was not kept.

    The monitor makes its sockets in a directory that belongs to the machine's user, and reaches
    nothing else by path.

    user: who the machine runs as, None for ourselves. Raises: OSError, from every method; what was
    opened stays owned.
    """

    def __init__(self, vm_id: str, run_dir: Path, user: tuple[int, int] | None) -> None:
        self.vm_id = vm_id
        self.run_dir = run_dir
        self.user = user
        self.inherited: dict[int, int] = {}
        self.cgroup_fd = -1
        self.console_fd = -1
        self._kept: set[int] = set()
        self._owned = ExitStack()

    @property
    def directory(self) -> Path:
        """What belongs to the machine's user."""
        return self.run_dir / DIRECTORY

    @property
    def uid(self) -> int:
        """Of the machine's user."""
        return self.user[0] if self.user else os.geteuid()

    def open(self) -> None:
        """Make the machine's directory, its log, its console."""
        self.directory.mkdir(mode=0o700)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._give(os.open(self.directory, flags), names.DIRECTORY_FD)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._give(os.open(self.run_dir / LOG_FILE, flags, 0o600), names.LOG_FD)
        self.console_fd = self.own(create_console(self.vm_id))

    def _give(self, fd: int, number: int) -> None:
        """Let the machine inherit a file that belongs to its user. fd: owned from now on."""
        self.own(fd)
        if self.user is not None:
            os.fchown(fd, *self.user)
        self.inherited[number] = fd

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

    def close(self) -> None:
        """Give back what was not kept. Idempotent."""
        self._owned.close()
