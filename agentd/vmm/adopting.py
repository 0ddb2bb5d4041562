"""Find machines of an earlier daemon again: the same for every monitor."""

from __future__ import annotations

from typing import Generic, TypeVar

from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.find import Finder, open_recorded
from agentd.vmm.machine import Machine
from agentd.vmm.vmm import VmRecord

M = TypeVar("M", bound=Machine)


class Adopting(Generic[M]):
    """The part of a monitor's driver that knows machines by their processes.

    Args: own: the kind of machine that owns a process.
    """

    def __init__(self, own: type[M], finder: Finder, cgroups: CgroupTree) -> None:
        self._own = own
        self._finder = finder
        self._cgroups = cgroups

    def adopt(self, record: VmRecord) -> M | None:
        """Take over a machine of an earlier daemon; None when that process is gone."""
        pidfd = open_recorded(record)
        if pidfd is None:
            self.forget(record.vm_id)
            return None
        return self._own(record, pidfd, is_child=False, cgroups=self._cgroups)

    def find_all(self) -> list[VmRecord]:
        """Every machine of this installation that runs on the host, journaled or not."""
        return self._finder.find_all()

    def forget(self, vm_id: str) -> None:
        """Remove the control group of a machine that no longer runs. Idempotent."""
        self._cgroups.remove(vm_id)
