"""A forwarder listens on all of its ports or on none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from contextlib import AbstractAsyncContextManager

import pytest

from agentd.engine.session import Machine
from agentd.errors import TransientError
from agentd.node.forwarder import Forwarder
from tests.adapters.node.world import Trace

# Of a network of its own, so that no other test's Pods listen there.
ADDRESS = "127.88.3.1"
PORTS = (18081, 18082, 18083)


def nobody() -> AbstractAsyncContextManager[Machine]:
    raise AssertionError("no connection was made")


def new_forwarder() -> Forwarder:
    return Forwarder(ADDRESS, PORTS, nobody, Trace())


def require_free() -> None:
    for port in PORTS:
        with socket.create_server((ADDRESS, port)):
            pass


async def test_a_port_that_is_taken_frees_the_others_and_is_named() -> None:
    said = f"{ADDRESS} port {PORTS[-1]}.*somebody listens"
    with socket.create_server((ADDRESS, PORTS[-1])), pytest.raises(TransientError, match=said):
        await new_forwarder().start()
    require_free()


@pytest.mark.parametrize("turns", range(12))
async def test_a_start_that_is_cancelled_leaves_no_listener(turns: int) -> None:
    starting = asyncio.create_task(new_forwarder().start())
    for _ in range(turns):
        await asyncio.sleep(0)
    if starting.done():
        pytest.skip("it takes fewer turns")
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    await asyncio.sleep(0)
    require_free()


async def test_closing_twice_is_closing_once() -> None:
    forwarder = new_forwarder()
    await forwarder.start()
    await forwarder.close()
    await forwarder.close()
    require_free()
