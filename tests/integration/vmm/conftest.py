"""One template of our guest, one of a guest that misbehaves; each built once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.image import Image, ImageSpec, build_image
from agentd.store.loaded import LoadedTemplate
from agentd.store.templates import TemplateStore
from agentd.vmm.qemu import Qemu
from tests.integration.conftest import IMAGES, ROOT
from tests.integration.vmm.support import Lab, freeze, freeze_real, wait_for_console


@pytest.fixture(scope="session")
def lab(qemu: Qemu, vms_dir: Path) -> Lab:
    return Lab(qemu, vms_dir)


@pytest.fixture(scope="session")
def template(lab: Lab, guest_image: Image, store: TemplateStore) -> Iterator[LoadedTemplate]:
    loaded = asyncio.run(freeze_real(lab, guest_image, store, "real"))
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def rogue_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Our guest with another PID 1, which ends its bring-up by doing what PREPARE says."""
    runtime = tmp_path_factory.mktemp("rogue") / "guest"
    shutil.copytree(ROOT / "agentd/guest", runtime, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("rogue_main.py"), runtime / "__main__.py")
    return build_image(ImageSpec(preload=(), runtime_dir=runtime), cache_dir=IMAGES)


@pytest.fixture(scope="session")
def rogue(lab: Lab, rogue_image: Image, store: TemplateStore) -> Iterator[LoadedTemplate]:
    async def build() -> LoadedTemplate:
        vm = await lab.boot(rogue_image)
        try:
            await wait_for_console(vm, "rogue waits")
            return await freeze(lab, vm, rogue_image, store, "rogue")
        finally:
            await vm.kill()

    loaded = asyncio.run(build())
    yield loaded
    loaded.close()
