"""Find the machines of Cloud Hypervisor among the processes of the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from agentd.vmm.find import read_start_ticks
from agentd.vmm.qemu_argv import parse_marker
from agentd.vmm.vmm import VmRecord


@dataclass(frozen=True)
class Finder:
    """Recognises machines by the name they were started by, in the place of the program's.

    Anybody on the host can give a process any name, and whoever kills a machine removes the run
    directory of that name; so only processes of a machine's own user, or of ours, count.

    vms_dir: holds each machine's run directory. user_of: who a machine runs as, None for ourselves.
    """

    installation: str
    vms_dir: Path
    user_of: Callable[[str], tuple[int, int] | None]
    own_uid: int

    def find_all(self) -> list[VmRecord]:
        """Every machine of the installation that runs."""
        found = (self._recognise(process) for process in psutil.process_iter())
        return [record for record in found if record is not None]

    def _recognise(self, process: psutil.Process) -> VmRecord | None:
        try:
            argv = process.cmdline()
            vm_id = parse_marker(argv[0], self.installation) if len(argv) > 1 else None
            if vm_id is None or process.uids().real not in self._users(vm_id):
                return None
        except (psutil.Error, OSError):  # it ended, or is hidden from us
            return None
        ticks = read_start_ticks(process.pid)
        if ticks is None:
            return None
        return VmRecord(vm_id, self.vms_dir / vm_id, process.pid, ticks)

    def _users(self, vm_id: str) -> set[int]:
        user = self.user_of(vm_id)
        return {self.own_uid, *([user[0]] if user else [])}
