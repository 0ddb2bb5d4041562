"""A Cloud Hypervisor whose machines are processes with a fake guest; see the modules beside.

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
from agentd.vmm.cloud_hypervisor import CloudHypervisor, CloudHypervisorSettings
from agentd.vmm.paging import Paging
from tests.fakes.launcher import build

_PROGRAM = Path(__file__).with_name("cloud_hypervisor_process.py")


def build_launcher(directory: Path) -> Path:
    """Compile the program that looks like a Cloud Hypervisor; returns its path."""
    return build(directory / "cloud-hypervisor", _PROGRAM)


class StandIn:
    """One such program, in a directory of its own. launcher: of `build_launcher`."""

    def __init__(self, launcher: Path, directory: Path, version: str = "v53.0") -> None:
        directory.mkdir(exist_ok=True)
        self.binary = directory / "cloud-hypervisor"
        self.binary.hardlink_to(launcher)
        self.version = version
        self._settings: dict[str, Any] = {}
        self.set()

    def set(self, faults: Iterable[str] = (), **settings: Any) -> None:
        """What goes wrong in monitors that start from here on, what they are like."""
        self._settings = {"version": self.version, "faults": [*faults], **settings}
        path = self.binary.with_name("stand-in.json")
        path.write_text(json.dumps(self._settings))

    def driver(
        self,
        vms_dir: Path,
        installation: str,
        cgroups: CgroupTree | None = None,
        paging: Paging | None = None,
        **settings: Any,
    ) -> CloudHypervisor:
        """The product's driver of it."""
        usual = CloudHypervisorSettings(
            binary=str(self.binary),
            version=self.version,
            host_cpu="some CPU",
            host_tsc_khz=0,
            installation=installation,
            vms_dir=vms_dir,
            user_of=lambda _vm_id: None,
        )
        wish = replace(usual, **settings)
        return CloudHypervisor(wish, cgroups or CgroupTree(None), paging=paging)
