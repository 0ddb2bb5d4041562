"""A fake guest on a real socket, on both event loops; nothing may be left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from agentd.warmfork import GuestChannel
from tests.fakes.guest_channel import FakeGuest

# libuv opens its signal pipe once for the whole process; that is no leak of the first test.
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as _runner:
    _runner.run(asyncio.sleep(0))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """No task outlives a test; descriptors are watched for all tests."""
    tasks = asyncio.all_tasks()
    yield
    for _ in range(5):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
    assert not left, f"tasks are left: {left}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "channel.sock"


@pytest.fixture
async def guest(path: Path, nothing_is_left: None) -> AsyncIterator[FakeGuest]:
    async with FakeGuest(path) as fake:
        yield fake


@pytest.fixture
async def channel(guest: FakeGuest) -> AsyncIterator[GuestChannel]:
    async with await GuestChannel.connect(guest.path, deadline_s=20) as made:
        yield made
