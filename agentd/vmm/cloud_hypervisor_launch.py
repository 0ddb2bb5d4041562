"""Hold what one start of a Cloud Hypervisor needs until it is over."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from agentd.vmm import cloud_hypervisor_config as names
from agentd.vmm.launch import DIRECTORY, Launch, make_directory, write_file
from agentd.vmm.machine import LOG_FILE

API_SOCKET: Final = "api.sock"
_BACKLOG: Final = 16


class CloudLaunch(Launch):
    """Its socket, directory, log.

    The monitor inherits a listening socket, so that whoever connects need not wait until it is
    there; and a directory that belongs to the machine's user, which is all that it can reach.
    """

    directory_fd = -1

    @property
    def api_path(self) -> Path:
        """The socket of the monitor's interface."""
        return self.run_dir / API_SOCKET

    def open(self) -> None:
        """Listen for the interface, open the log, make the machine's directory."""
        server = self.owned.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        server.bind(str(self.api_path))
        server.listen(_BACKLOG)
        self.inherit(server.fileno(), names.API_FD)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.log_fd = self.own(os.open(self.run_dir / LOG_FILE, flags, 0o600))
        self.directory_fd = self.own(make_directory(self.run_dir / DIRECTORY, self.user))
        self.inherit(self.directory_fd, names.DIRECTORY_FD)

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
