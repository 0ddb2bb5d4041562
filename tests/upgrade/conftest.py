"""The guest image that sessions run."""

from __future__ import annotations

import pytest

from agentd.image import Image, ImageSpec, build_image
from bench.demo import IMAGES


@pytest.fixture(scope="session")
def guest_image() -> Image:
    """The image that a user gets by default; built once, kept between runs."""
    return build_image(ImageSpec(), cache_dir=IMAGES)
