"""The embedded provider on Cloud Hypervisor: its monitors are stand-ins, its guests fake."""

from __future__ import annotations

import uuid
from pathlib import Path

from tests.contract.drivers.qemu import Host
from tests.fakes.cloud_hypervisor import StandIn, build_launcher
from tests.fakes.daemon import make_image, make_settings

MEMORY_MIB = 1


def cloud_hypervisor_host(root: Path, version: str = "v53.0") -> Host:
    """A host for `tests.contract.drivers.qemu.qemu_world`, whose monitor is the real driver."""
    settings = make_settings(root, machines={"memory_mib": MEMORY_MIB})
    settings.data_dir.mkdir(mode=0o700)
    image = make_image(root / "image")
    (root / "launcher").mkdir()
    stand_in = StandIn(build_launcher(root / "launcher"), root / "bin", version)
    vms_dir, installation = settings.run_dir / "vms", uuid.uuid4().hex
    return Host(settings, str(image), MEMORY_MIB, lambda: stand_in.driver(vms_dir, installation))
