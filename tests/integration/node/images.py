"""Guest images that break a promise, made by changing the runtime that goes into them."""

from __future__ import annotations

import shutil
from pathlib import Path

import agentd.guest
from agentd.image import Image, ImageSpec, build_image
from agentd.image.spec import ignore_progress
from bench.demo import IMAGES

UNSEEDED_MAIN = '''
"""A runtime that takes on no identity."""

from agentd.guest.effects import SystemEffects
from agentd.guest.product_main import main as product_main


class Unseeded(SystemEffects):
    """Does nothing between COMMIT and STARTED but the clock, the environment, the workspace."""

    def add_entropy(self, plan):
        pass

    set_hostname = set_machine_id = renew_boot_id = renew_processes = add_entropy


def main():
    product_main(Unseeded)
'''


def copy_runtime(target: Path, main: str) -> Path:
    """The product's runtime with another entry point in front of it."""
    source = Path(agentd.guest.__file__).parent
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "__main__.py").rename(target / "product_main.py")
    (target / "__main__.py").write_text(main.lstrip())
    return target


def build_changed_image(
    directory: Path, main: str, *, preload: tuple[str, ...] = ("numpy",), **files: str
) -> Image:
    """An image with that runtime. files: further modules of the runtime, by name."""
    runtime = copy_runtime(directory / "guest", main)
    for name, text in files.items():
        (runtime / f"{name}.py").write_text(text.lstrip())
    spec = ImageSpec(runtime_dir=runtime, preload=preload)
    return build_image(spec, cache_dir=IMAGES, progress=ignore_progress)
