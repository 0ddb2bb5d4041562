"""Both event loops, and what they and grpc keep open for the whole process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

# It opens what grpc keeps open for the whole process, so that this is no leak of the first test.
import tests.fakes.kuasar.grpc_server  # noqa: F401

# libuv opens its signal pipe once for the whole process.
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as _runner:
    _runner.run(asyncio.sleep(0))


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
