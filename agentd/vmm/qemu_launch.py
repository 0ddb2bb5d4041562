"""Hold what one start of QEMU needs until it is over."""

from __future__ import annotations

import os
import socket
from typing import Final

from agentd.vmm import qemu_argv
from agentd.vmm.launch import Launch
from agentd.vmm.machine import CHANNEL_SOCKET, LOG_FILE, QMP_SOCKET

# A client that connects while another is served waits in here, up to its own deadline.
_BACKLOG: Final = 16


class QemuLaunch(Launch):
    """Its sockets; `close` gives back those that were not taken.

    The machine inherits listening sockets to which we are connected already, so everything that
    can be said before it runs is said before it runs.
    """

    qmp: socket.socket
    channel: socket.socket
    _is_channel_taken = False

    def open(self) -> None:
        """Listen for both channels, connect to both, open the log."""
        self.qmp = self.owned.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.owned.callback(self._close_channel_unless_taken)
        self._listen(QMP_SOCKET, self.qmp, qemu_argv.QMP_FD)
        self._listen(CHANNEL_SOCKET, self.channel, qemu_argv.CHANNEL_FD)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.log_fd = self.own(os.open(self.run_dir / LOG_FILE, flags, 0o600))

    def _listen(self, name: str, client: socket.socket, number: int) -> None:
        path = str(self.run_dir / name)
        server = self.owned.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        server.bind(path)
        server.listen(_BACKLOG)
        client.connect(path)
        self.inherited[number] = server.fileno()

    def _close_channel_unless_taken(self) -> None:
        if not self._is_channel_taken:
            self.channel.close()

    def take_channel(self) -> socket.socket:
        """Hand our end of the guest channel to the caller."""
        self._is_channel_taken = True
        return self.channel
