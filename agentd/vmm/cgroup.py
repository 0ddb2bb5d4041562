"""Give each machine a control group where the host has version 2.

The group makes the machine countable and lets the kernel end everything in it at once
(Documentation/admin-guide/cgroup-v2.rst, "cgroup.kill"). Groups hang below the group that the
daemon itself runs in, so that a service manager keeps the whole tree.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path


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
    """The directory under which machines get their groups; None where that is impossible."""

    root: Path | None

    @classmethod
    def find(cls, proc: Path = Path("/proc")) -> CgroupTree:
        """Find our own group; a host without version 2, or without permission, gives None."""
        mount = parse_cgroup2_mount((proc / "mounts").read_text())
        own = parse_own_cgroup((proc / "self/cgroup").read_text())
        if mount is None or own is None:
            return cls(None)
        root = mount / own.lstrip("/")
        return cls(root if os.access(root, os.W_OK) else None)

    def create(self, vm_id: str) -> int:
        """Make a machine's group; returns a directory fd owned by the caller, or -1."""
        if self.root is None:
            return -1
        path = self.root / f"snapstart-{vm_id}"
        try:
            path.mkdir(exist_ok=True)
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            self.remove(vm_id)
            return -1

    def remove(self, vm_id: str) -> None:
        """Remove a machine's group once its processes are gone. Idempotent."""
        if self.root is not None:
            with contextlib.suppress(OSError):
                (self.root / f"snapstart-{vm_id}").rmdir()

    def list_ids(self) -> list[str]:
        """The machines that still have a group."""
        if self.root is None:
            return []
        prefix = "snapstart-"
        return [path.name.removeprefix(prefix) for path in self.root.glob(f"{prefix}*")]
