"""A Firecracker whose machines are processes with a fake guest; see the modules beside.

The driver starts it as it starts the real program: with the name of a machine in the place of the
program's (`tests.fakes.launcher`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.firecracker import Firecracker
from agentd.vmm.firecracker_spawn import FirecrackerSettings
from agentd.vmm.firecracker_versions import probe_program
from agentd.vmm.paging import Paging
from tests.fakes.launcher import build

_PROGRAM = Path(__file__).with_name("firecracker_process.py")


def build_launcher(directory: Path) -> Path:
    """Compile the program that looks like a Firecracker; returns its path."""
    return build(directory / "firecracker", _PROGRAM)


class StandIn:
    """One such program, in a directory of its own. launcher: of `build_launcher`."""

    def __init__(self, launcher: Path, directory: Path, version: str = "1.16.1") -> None:
        directory.mkdir(exist_ok=True)
        self.binary = directory / "firecracker"
        self.binary.hardlink_to(launcher)
        self.version = version
        self.set()

    def set(self, faults: Iterable[str] = (), **settings: Any) -> None:
        """What goes wrong in monitors that start from here on, what they are like."""
        path = self.binary.with_name("stand-in.json")
        path.write_text(json.dumps({"version": self.version, "faults": [*faults], **settings}))

    def driver(
        self,
        vms_dir: Path,
        installation: str,
        cgroups: CgroupTree | None = None,
        paging: Paging | None = None,
        **settings: Any,
    ) -> Firecracker:
        """The product's driver of it."""
        usual = FirecrackerSettings(
            binary=str(self.binary),
            program=probe_program(str(self.binary)),
            host="some CPU, Linux 6.18",
            host_tsc_khz=0,
            installation=installation,
            vms_dir=vms_dir,
            user_of=lambda _vm_id: None,
        )
        return Firecracker(replace(usual, **settings), cgroups or CgroupTree(None), paging=paging)
