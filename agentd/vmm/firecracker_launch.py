"""Hold what one start of a Firecracker needs until it is over."""

from __future__ import annotations

from pathlib import Path

from agentd.vmm import firecracker_config as names
from agentd.vmm.firecracker_console import create_console
from agentd.vmm.launch import DIRECTORY, Launch, create_file, make_directory
from agentd.vmm.machine import LOG_FILE


class FirecrackerLaunch(Launch):
    """Its directory, log, console.

    The monitor makes its sockets in a directory that belongs to the machine's user, and reaches
    nothing else by path.
    """

    console_fd = -1

    @property
    def directory(self) -> Path:
        """What belongs to the machine's user."""
        return self.run_dir / DIRECTORY

    def open(self) -> None:
        """Make the machine's directory, its log, its console."""
        self.inherit(self.own(make_directory(self.directory, self.user)), names.DIRECTORY_FD)
        self.log_fd = self.own(create_file(self.run_dir / LOG_FILE, self.user))
        self.inherit(self.log_fd, names.LOG_FD)
        self.console_fd = self.own(create_console(self.vm_id))
