"""One world of each provider."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.drivers.providers import FAST, SLOW
from tests.contract.drivers.world import DriverWorld


@pytest.fixture
def root() -> Iterator[Path]:
    """Short enough for socket paths."""
    path = Path(tempfile.mkdtemp(prefix="contract-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=FAST)
async def world(request: pytest.FixtureRequest, root: Path) -> AsyncIterator[DriverWorld]:
    """One that nothing may be left of at the end."""
    async with {**FAST, **SLOW}[request.param](root) as made:
        yield made
        await made.end_sessions()
        await made.end_builds()
        assert made.left_over() == []
