"""Give each machine a control group where the host has version 2.

The group shows what a machine uses, apart from all others
(Documentation/admin-guide/cgroup-v2.rst, "cpu.stat"), and bounds that where controllers can be
had (`limits.py`): not below a group that has processes of its own, as the daemon's has. Groups
hang below that one, so that a service manager keeps the whole tree.
"""

from __future__ import annotations

import contextlib
import glob
import os
from dataclasses import dataclass
from pathlib import Path

from agentd.vmm.limits import Limits, offer_controllers, write_limits


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


@dataclass(frozen=True)
class CgroupTree:
    """The directory under which machines get their groups; None where that is impossible.

    installation: whose machines; those of others on this host are left alone.
    """

    root: Path | None
    installation: str = ""

    @classmethod
    def find(cls, installation: str, proc: Path = Path("/proc")) -> CgroupTree:
        """Find our own group; a host without version 2, or without permission, gives None."""
        mount = parse_cgroup2_mount((proc / "mounts").read_text())
        own = parse_own_cgroup((proc / "self/cgroup").read_text())
        if mount is None or own is None:
            return cls(None, installation)
        root = mount / own.lstrip("/")
        return cls(root if os.access(root, os.W_OK) else None, installation)

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
        if self.root is not None:
            with contextlib.suppress(OSError):
                (self.root / f"{self._prefix}{vm_id}").rmdir()

    def list_ids(self) -> list[str]:
        """The machines of this installation that still have a group."""
        if self.root is None:
            return []
        found = self.root.glob(f"{glob.escape(self._prefix)}*")
        return [path.name.removeprefix(self._prefix) for path in found]

    def remove_empty(self) -> None:
        """Remove every group without a process; rmdir(2) refuses the others.

        No machine may be starting: its group is made before its process.
        """
        for vm_id in self.list_ids():
            self.remove(vm_id)
