"""Give each machine a control group where the host has version 2.

The group shows what a machine uses, apart from all others
(Documentation/admin-guide/cgroup-v2.rst, "cpu.stat"), and bounds that where controllers can be
had (`limits.py`). Under systemd groups hang below a unit of the machines' own, which nothing that
happens to the daemon's unit reaches (systemd/snapstart-machines.service); elsewhere below the
daemon's own group, where controllers cannot be had while it has processes of its own.
"""

from __future__ import annotations

import contextlib
import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.vmm.limits import Limits, offer_controllers, write_limits

MACHINES_UNIT: Final = "snapstart-machines.service"


def parse_cgroup2_mount(mounts: str) -> Path | None:
    """The first cgroup2 mount point of /proc/mounts."""
    rows = (line.split() for line in mounts.splitlines())
    return next((Path(row[1]) for row in rows if len(row) > 2 and row[2] == "cgroup2"), None)


def parse_own_cgroup(text: str) -> str | None:
    """Our path in the unified hierarchy, from /proc/self/cgroup (cgroups(7)).

    None when there is none, or it is outside of our cgroup namespace.
    """
    path = next((line[3:] for line in text.splitlines() if line.startswith("0::")), None)
    return None if path is None or ".." in path.split("/") else path


def is_unit(group: Path) -> bool:
    """Whether this is the group of a service of systemd's, ours for example."""
    return group.suffix == ".service"


@dataclass(frozen=True)
class CgroupTree:
    """The directory under which machines get their groups; None where that is impossible.

    installation: whose machines; those of others on this host are left alone. former: another one
    that has some still.
    """

    root: Path | None
    installation: str = ""
    former: Path | None = None

    @classmethod
    def find(cls, installation: str, proc: Path = Path("/proc")) -> CgroupTree:
        """The group of the machines' unit beside our own unit, else our own group.

        None on a host without version 2, or without permission.
        """
        mount = parse_cgroup2_mount((proc / "mounts").read_text())
        own = parse_own_cgroup((proc / "self/cgroup").read_text())
        if mount is None or own is None:
            return cls(None, installation)
        group = mount / own.lstrip("/")
        beside = group.parent / MACHINES_UNIT
        if is_unit(group) and os.access(beside, os.W_OK):
            return cls(beside, installation, former=group)
        return cls(group if os.access(group, os.W_OK) else None, installation)

    @classmethod
    def prepared(cls, installation: str) -> CgroupTree:
        """As `find`; groups of machines that are dead are gone, those to come may have limits."""
        found = cls.find(installation)
        found.remove_empty()
        found.offer_controllers()
        return found

    @property
    def _roots(self) -> list[Path]:
        return [root for root in (self.root, self.former) if root is not None]

    @property
    def _prefix(self) -> str:
        return f"snapstart-{self.installation}-"

    def offer_controllers(self) -> None:
        """Let machines have limits, where that is possible; once, before the first of them."""
        if self.root is not None:
            offer_controllers(self.root)

    def create(self, vm_id: str, limits: Limits | None = None) -> int:
        """Make a machine's group; returns a directory fd owned by the caller, or -1."""
        if self.root is None:
            return -1
        path = self.root / f"{self._prefix}{vm_id}"
        try:
            path.mkdir(exist_ok=True)
            if limits is not None:
                write_limits(path, limits)
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            self.remove(vm_id)
            return -1

    def remove(self, vm_id: str) -> None:
        """Remove a machine's group once its processes are gone. Idempotent."""
        for root in self._roots:
            with contextlib.suppress(OSError):
                (root / f"{self._prefix}{vm_id}").rmdir()

    def has(self, vm_id: str) -> bool:
        """Whether a machine still has a group."""
        return any((root / f"{self._prefix}{vm_id}").exists() for root in self._roots)

    def list_ids(self) -> list[str]:
        """The machines of this installation that still have a group."""
        pattern = f"{glob.escape(self._prefix)}*"
        found = [path for root in self._roots for path in root.glob(pattern)]
        return [path.name.removeprefix(self._prefix) for path in found]

    def remove_empty(self) -> None:
        """Remove every group without a process; rmdir(2) refuses the others.

        No machine may be starting: its group is made before its process.
        """
        for vm_id in self.list_ids():
            self.remove(vm_id)
