"""Own one machine of Firecracker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agentd.errors import InvariantError
from agentd.vmm import firecracker_config as names
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.firecracker_console import read_tail, read_tail_of
from agentd.vmm.firecracker_exit import explain_exit
from agentd.vmm.hybrid_machine import HybridMachine
from agentd.vmm.vmm import VmRecord
from agentd.wire.manifest import Machine as Shape


@dataclass(frozen=True)
class SaveFiles:
    """Where a machine that was booted can be saved to: empty memfds that its monitor inherited,
    owned by whoever holds this; and what it was booted as.
    """

    memory_fd: int
    state_fd: int
    shape: Shape

    def close(self) -> None:
        """Give both back. Call it once."""
        os.close(self.memory_fd)
        os.close(self.state_fd)


class FirecrackerMachine(HybridMachine):
    """One running machine. Implements `agentd.vmm.vmm.Vm`.

    console_fd: of a machine that we started; owned from now on. saves: of a machine that was booted
    to be saved; likewise.
    """

    channel_name = names.CHANNEL_NAME

    def __init__(
        self,
        record: VmRecord,
        pidfd: int,
        *,
        is_child: bool,
        cgroups: CgroupTree,
        console_fd: int = -1,
        saves: SaveFiles | None = None,
    ) -> None:
        super().__init__(record, pidfd, is_child=is_child, cgroups=cgroups)
        self._console_fd = console_fd
        self._saves = saves

    @property
    def api_path(self) -> Path:
        """The socket of the monitor's interface."""
        return self.directory / names.API_NAME

    def take_saves(self) -> SaveFiles:
        """Hand over where it can be saved to. Raises: InvariantError for a machine that was not
        booted for that, and the second time.
        """
        saves, self._saves = self._saves, None
        if saves is None:
            raise InvariantError(f"{self!r} was not booted to be saved")
        return saves

    def _reap(self) -> str:
        return explain_exit(super()._reap())

    def _close_files(self) -> None:
        super()._close_files()
        saves, self._saves = self._saves, None
        if saves is not None:
            saves.close()
        fd, self._console_fd = self._console_fd, -1
        if fd >= 0:
            os.close(fd)

    async def console_tail(self, *, deadline_s: float) -> str:
        """The last text on the guest's console, at most 4 KiB; empty when there is none."""
        return self.console_text()

    def console_text(self) -> str:
        """As `console_tail`, which never has to wait."""
        if self._console_fd >= 0:
            return read_tail(self._console_fd)
        return read_tail_of(self.record.pid) if self.is_running else ""
