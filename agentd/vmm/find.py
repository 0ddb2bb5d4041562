"""Find the machines of an installation among the processes of the host."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from agentd.vmm.qemu_argv import parse_marker
from agentd.vmm.vmm import VmRecord


def read_start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)), or None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def open_recorded(record: VmRecord) -> int | None:
    """A pidfd of the recorded process, owned by the caller; None when that process is gone.

    Raises: OSError when there are no descriptors left.
    """
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return None
    # Compared after the pidfd was opened: from here on the number cannot change its owner.
    if read_start_ticks(record.pid) != record.create_time_ticks:
        os.close(pidfd)
        return None
    return pidfd


NameOf = Callable[[Sequence[str]], str]
"""Which of a process's arguments says whose machine it is; empty if none can."""


def named_by_option(argv: Sequence[str]) -> str:
    """Of QEMU, whose first option is -name."""
    return argv[2] if len(argv) > 2 and argv[1] == "-name" else ""


def named_by_first_word(argv: Sequence[str]) -> str:
    """Of a monitor that was given the name in the place of its program's."""
    return argv[0] if len(argv) > 1 else ""


@dataclass(frozen=True)
class Finder:
    """Recognises machines by the name they were started by.

    Anybody on the host can give a process any name, and whoever kills a machine removes the run
    directory of that name; so only processes of a machine's own user, or of ours, count.

    vms_dir: holds each machine's run directory. user_of: who a machine runs as, None for ourselves.
    """

    installation: str
    vms_dir: Path
    user_of: Callable[[str], tuple[int, int] | None]
    name_of: NameOf
    own_uid: int = field(default_factory=os.geteuid)

    def find_all(self) -> list[VmRecord]:
        """Every machine of the installation that runs."""
        found = (self._recognise(process) for process in psutil.process_iter())
        return [record for record in found if record is not None]

    def _recognise(self, process: psutil.Process) -> VmRecord | None:
        try:
            vm_id = parse_marker(self.name_of(process.cmdline()), self.installation)
            if vm_id is None or process.uids().real not in self._users(vm_id):
                return None
        except (psutil.Error, OSError):  # it ended, or is hidden from us
            return None
        ticks = read_start_ticks(process.pid)
        return None if ticks is None else VmRecord(vm_id, self.vms_dir / vm_id, process.pid, ticks)

    def _users(self, vm_id: str) -> set[int]:
        user = self.user_of(vm_id)
        return {self.own_uid, *([user[0]] if user else [])}
