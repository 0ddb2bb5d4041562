"""Both event loops, and what they keep open for the whole process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from tests.fakes.pager import FakePager

# libuv opens its signal pipe once for the whole process.
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as _runner:
    _runner.run(asyncio.sleep(0))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def pager(tmp_path: Path) -> AsyncIterator[FakePager]:
    """A page server that answers."""
    async with FakePager(tmp_path).serving() as running:
        yield running
