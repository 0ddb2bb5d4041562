"""The embedded provider on Firecracker: machines of a stand-in for it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.contract.drivers.qemu import Host, QemuWorld, qemu_world
from tests.fakes.daemon import make_image, make_settings
from tests.fakes.firecracker import StandIn, build_launcher

_MEMORY_MIB = 4


def firecracker_host(root: Path) -> Host:
    """Its machines are processes with a fake guest behind a real hybrid vsock."""
    settings = make_settings(root, machines={"memory_mib": _MEMORY_MIB})
    settings.data_dir.mkdir(mode=0o700)
    programs = root / "program"
    programs.mkdir()
    stand_in = StandIn(build_launcher(programs), root / "bin")
    installation = uuid.uuid4().hex
    vms_dir = settings.run_dir / "vms"
    return Host(
        settings,
        str(make_image(root / "image")),
        _MEMORY_MIB,
        lambda: stand_in.driver(vms_dir, installation),
    )


@asynccontextmanager
async def firecracker_world(root: Path) -> AsyncIterator[QemuWorld]:
    """One that has started; stopped at the end."""
    async with qemu_world(firecracker_host(root)) as world:
        yield world
