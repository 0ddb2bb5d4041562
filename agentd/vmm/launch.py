"""Hold what one start of a machine needs until it is over."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from agentd.vmm import qemu_argv
from agentd.vmm.machine import CHANNEL_SOCKET, LOG_FILE, QMP_SOCKET

# A client that connects while another is served waits in here, up to its own deadline.
_BACKLOG: Final = 16


class Launch:
    """Sockets, files, memory of one start; `close` gives back all that was not kept.

    The machine inherits listening sockets to which we are connected already, so everything that
    can be said before it runs is said before it runs.

    Raises: OSError, from every method that opens something; what was opened stays owned.
    """

    def __init__(self, vm_id: str, run_dir: Path) -> None:
        self.vm_id = vm_id
        self.run_dir = run_dir
        self.inherited: dict[int, int] = {}
        self.cgroup_fd = -1
        self.log_fd = -1
        self._kept: set[int] = set()
        with ExitStack() as opened:
            self.qmp = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._is_channel_taken = False
            opened.callback(self._close_channel_unless_taken)
            self._owned = opened.pop_all()

    def open_sockets(self) -> None:
        """Listen for both channels, connect to both, open the log."""
        self._listen(QMP_SOCKET, self.qmp, qemu_argv.QMP_FD)
        self._listen(CHANNEL_SOCKET, self.channel, qemu_argv.CHANNEL_FD)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.log_fd = self.own(os.open(self.run_dir / LOG_FILE, flags, 0o600))

    def _listen(self, name: str, client: socket.socket, number: int) -> None:
        path = str(self.run_dir / name)
        server = self._owned.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        server.bind(path)
        server.listen(_BACKLOG)
        client.connect(path)
        self.inherited[number] = server.fileno()

    def own(self, fd: int) -> int:
        """Close this descriptor when the start is over, unless it is kept."""
        self._owned.callback(self._close_unless_kept, fd)
        return fd

    def _close_unless_kept(self, fd: int) -> None:
        if fd not in self._kept:
            os.close(fd)

    def _close_channel_unless_taken(self) -> None:
        if not self._is_channel_taken:
            self.channel.close()

    def keep(self, fd: int) -> int:
        """Hand an owned descriptor to the caller."""
        self._kept.add(fd)
        return fd

    def inherit(self, fd: int, number: int) -> None:
        """Let the machine have a borrowed descriptor under a number."""
        self.inherited[number] = fd

    def inherit_reopened(self, fd: int, number: int) -> None:
        """As `inherit`, with a read offset of its own."""
        self.inherit_file(Path(f"/proc/self/fd/{fd}"), number)

    def inherit_file(self, path: Path, number: int) -> None:
        """Let the machine read a file that its user could not reach by path."""
        self.inherit(self.own(os.open(path, os.O_RDONLY | os.O_CLOEXEC)), number)

    def take_channel(self) -> socket.socket:
        """Hand our end of the guest channel to the caller."""
        self._is_channel_taken = True
        return self.channel

    def close(self) -> None:
        """Give back what was not kept or taken. Idempotent."""
        self._owned.close()
