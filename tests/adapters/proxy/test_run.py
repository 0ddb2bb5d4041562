"""It serves where it may, and says why where it may not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode, TransientError
from agentd.node.host_facts import find_address
from agentd.proxy.accepting import open_listener
from agentd.proxy.run import Outside, run_proxy, serving
from agentd.settings import Proxy
from tests.adapters.proxy.world import (
    ADDRESS,
    TOKEN,
    FakeDriver,
    Written,
    all_written,
    outside,
    until,
)
from tests.kube import ports


@asynccontextmanager
async def running(one: Outside) -> AsyncIterator[Written]:
    """The proxy of an agent, cancelled at the end."""
    with all_written() as written:
        task = asyncio.create_task(run_proxy(one))
        try:
            yield written
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_it_listens_on_its_pods_address_and_on_no_other() -> None:
    address, port = find_address(), ports.choose(1)[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but the loopback's")
    environ = {"POD_IP": address, "KUASAR_PROXY_TOKEN": TOKEN}
    one = outside(FakeDriver(), environ=environ, settings=Proxy(enabled=True, port=port))
    async with running(one) as written:
        await until(lambda: "proxy.ready" in written.text)
        _, writer = await asyncio.open_connection(address, port)
        writer.close()
        await writer.wait_closed()
        for other in ("127.0.0.1", ADDRESS):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(other, port)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(address, port)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        pytest.param({"KUASAR_PROXY_TOKEN": TOKEN}, "not set", id="no address"),
        pytest.param({"KUASAR_PROXY_TOKEN": TOKEN, "POD_IP": "0.0.0.0"}, "every", id="all"),
        pytest.param({"KUASAR_PROXY_TOKEN": TOKEN, "POD_IP": "192.0.2.9"}, "node's", id="host"),
        pytest.param({"POD_IP": "198.51.100.7"}, "token", id="no token"),
        pytest.param({"KUASAR_PROXY_TOKEN": "", "POD_IP": "198.51.100.7"}, "token", id="empty"),
        pytest.param(
            {"KUASAR_PROXY_TOKEN": TOKEN, "POD_IP": "198.51.100.7"}, "assign", id="not ours"
        ),
    ],
)
async def test_it_serves_nobody_where_it_may_not_and_says_why(
    environ: dict[str, str], said: str
) -> None:
    settings = Proxy(enabled=True, port=ports.choose(1)[0])
    one = outside(
        FakeDriver(), environ=environ, settings=settings, node_addresses=["192.0.2.9", "a"]
    )
    async with running(one) as written:
        await until(lambda: "proxy.failed" in written.text)
        assert said in written.text
        assert TOKEN not in written.text
        for address in ("127.0.0.1", ADDRESS):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(address, settings.port)


async def test_without_a_token_it_does_not_listen(tmp_path: Path) -> None:
    one = outside(FakeDriver(), settings=Proxy(enabled=True, token_file=tmp_path / "none"))
    with pytest.raises(ConfigError, match="token"):
        async with serving(one, ADDRESS, 0):
            raise AssertionError("it serves")


async def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server((ADDRESS, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TransientError, match=f"port {port}") as caught:
            async with serving(outside(FakeDriver()), ADDRESS, port):
                raise AssertionError("it serves")
    assert caught.value.code is ErrorCode.NODE_FULL


async def test_an_address_of_somebody_else_is_told() -> None:
    with pytest.raises(ConfigError, match=r"198\.51\.100\.7"):
        open_listener("198.51.100.7", 0)


async def test_it_serves_the_sixth_version_too() -> None:
    try:
        listener = open_listener("::1", 0)
    except ConfigError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert listener.family is socket.AF_INET6
