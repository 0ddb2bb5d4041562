"""The daemon's event loop; beside it asyncio's own where connections are what is tested."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import uvloop

# Imported for what it opens once, which is no leak of the first test.
import tests.fakes.kuasar.grpc_server  # noqa: F401

# libuv opens its signal pipe once for the whole process.
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as _runner:
    _runner.run(asyncio.sleep(0))

_BOTH = ("test_accepting.py", "test_audit.py", "test_connections.py", "test_tls.py")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    found: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.path.name in _BOTH:
        found["asyncio"] = asyncio.new_event_loop
    return found
