"""A real agentd with a real template."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentd.image import Image
from bench.demo import IMAGES, MEMORY_MIB
from bench.node import Node

TEMPLATE = "python"


@pytest.fixture(scope="session")
def node(guest_image: Image) -> Iterator[Node]:
    """One agentd for tests that leave it as they found it; its template is called `python`."""
    with Node(IMAGES, MACHINES__MEMORY_MIB=str(MEMORY_MIB)) as running:
        running.build_template(TEMPLATE, str(guest_image.directory))
        yield running
