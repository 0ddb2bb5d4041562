"""Every provider by a name of its own, each with what the contract asks of it beside its driver."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from agentd.image import Image, ImageSpec, build_image
from agentd.kuasar.client import Form
from bench.demo import IMAGES
from tests.contract.drivers.cloud_hypervisor import cloud_hypervisor_host
from tests.contract.drivers.firecracker import firecracker_host
from tests.contract.drivers.kuasar import kuasar_leg
from tests.contract.drivers.qemu import fake_host, qemu_world, real_host
from tests.contract.drivers.world import DriverWorld

Open = Callable[[Path], AbstractAsyncContextManager[DriverWorld]]


def guest_image() -> Image:
    """The image that a user gets by default; built once, kept between runs."""
    return build_image(ImageSpec(), cache_dir=IMAGES)


FAST: dict[str, Open] = {
    "kuasar-json": lambda root: kuasar_leg(root, Form.JSON),
    "kuasar-grpc": lambda root: kuasar_leg(root, Form.GRPC),
    "cloud-hypervisor-stand-in": lambda root: qemu_world(cloud_hypervisor_host(root)),
    "firecracker-stand-in": lambda root: qemu_world(firecracker_host(root)),
    "qemu-fake-machines": lambda root: qemu_world(fake_host(root)),
}
# Each build boots a machine, which takes seconds.
SLOW: dict[str, Open] = {
    "qemu": lambda root: qemu_world(real_host(root, guest_image())),
}
