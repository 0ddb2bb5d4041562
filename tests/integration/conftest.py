"""What every test with a real machine needs: the guest image, a QEMU, a store."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd import native
from agentd.image import Image, ImageSpec, build_image
from agentd.store.templates import TemplateStore
from agentd.vmm.qemu import Qemu
from agentd.vmm.qemu_open import open_qemu

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "build" / "images"
UID_BASE = 1_900_000_000


@pytest.fixture(scope="session")
def guest_image() -> Image:
    """The image that a user gets by default; built once, kept between runs."""
    return build_image(ImageSpec(), cache_dir=IMAGES)


@pytest.fixture(scope="session")
def vms_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where run directories are: short enough for the sockets in them."""
    return tmp_path_factory.mktemp("vms")


@pytest.fixture(scope="session")
def installation() -> str:
    """A mark of our own, so that other machines on this host are none of ours."""
    return uuid.uuid4().hex


@pytest.fixture(scope="session")
def qemu(vms_dir: Path, installation: str) -> Qemu:
    """The QEMU of this host, as the daemon opens it."""
    return open_qemu(
        binary="qemu-system-x86_64",
        accel="auto",
        uid_base=UID_BASE,
        installation=installation,
        vms_dir=vms_dir,
        euid=os.geteuid(),
    )


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemplateStore]:
    """A store on disk, shared by the templates of a run."""
    directory = tmp_path_factory.mktemp("data")
    directory.chmod(0o700)
    with TemplateStore(directory, owner="tests", copier=native.copy_memory) as opened:
        yield opened
