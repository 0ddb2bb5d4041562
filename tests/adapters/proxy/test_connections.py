"""Callers that dawdle, lie or leave harm nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from datetime import UTC, datetime

import pytest

from agentd.providers.driver import LocalArtifact, SnapshotOwner
from agentd.proxy.limits import CONNECTIONS_MAX
from agentd.proxy.run import serving
from controlplane.api.types import SnapshotMode
from tests.adapters.proxy.world import (
    ADDRESS,
    CLUSTER,
    CREATE,
    LIST,
    Caller,
    FakeDriver,
    all_written,
    connections,
    deadlines,
    outside,
    parsed,
    post,
    proxy_world,
    until,
)

TEXT = json.dumps(LIST).encode()
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


# -- slow -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"POST /kuasar-admin HTTP/1.1\r\nX-A: ", post(b"")[:-2]])
async def test_headers_that_do_not_come_end_the_connection(data: bytes) -> None:
    async with proxy_world(deadlines=deadlines(header_s=0.05)) as world:
        assert (await world.caller.send(data)).status == 0
        assert world.driver.calls == 0


async def test_headers_that_trickle_get_no_more_time() -> None:
    async with proxy_world(deadlines=deadlines(header_s=0.1)) as world:
        with pytest.raises(ConnectionError):
            await trickle(world.caller)


async def trickle(caller: Caller) -> None:
    async with caller.connected() as (_, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nX-A: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.005)


async def test_a_body_that_does_not_come_is_refused() -> None:
    async with proxy_world(deadlines=deadlines(body_s=0.05)) as world:
        answer = await world.caller.send(post(TEXT, length=len(TEXT) + 1))
        assert (answer.status, answer.json["error"]) == (408, "slow_request")
        assert world.driver.calls == 0


async def test_a_caller_that_reads_no_reply_is_cut_off() -> None:
    async with proxy_world(deadlines=deadlines(answer_s=0.1)) as world:
        owner = SnapshotOwner(f"snapstart/{CLUSTER}", "team", "a", "u")
        for n in range(40_000):
            key = f"k{n}"
            made = datetime.now(UTC)
            world.driver.artifacts[key] = LocalArtifact(
                key, "", SnapshotMode.FORK, True, 0, made, owner
            )
        with socket.create_connection((ADDRESS, world.caller.port)) as sock:
            sock.sendall(post(TEXT))
            await until(connections)
            await until(lambda: not connections())
            sock.setblocking(True)
            got = b""
            with contextlib.suppress(ConnectionError):
                while part := sock.recv(1 << 20):
                    got += part
        answer = parsed(got)
        assert answer.status == 200
        assert len(answer.body) < int(answer.headers["content-length"])


# -- lies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(post(b"zz\r\n", "Transfer-Encoding: chunked"), id="no chunk size"),
        pytest.param(post(b"-1\r\n\r\n", "Transfer-Encoding: chunked"), id="a negative chunk"),
        pytest.param(
            post(b"1" * 9000 + b"\r\n", "Transfer-Encoding: chunked"), id="an endless chunk size"
        ),
        pytest.param(
            post(b"2\r\n{}}}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), id="a longer chunk"
        ),
        pytest.param(
            post(b"0\r\n\r\n", "Transfer-Encoding: chunked", "Content-Length: 5"), id="two lengths"
        ),
        pytest.param(post(TEXT, "Content-Length: 1"), id="two lengths that differ"),
        pytest.param(post(TEXT, "Transfer-Encoding: gzip"), id="an unknown encoding"),
        pytest.param(post(TEXT, length=-1), id="a negative length"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01", id="TLS"),
        pytest.param(b"\x00" * 100, id="zeros"),
        pytest.param(b"POST /kuasar-admin HTTP/1.1\r\n" + b"A: b\r\n" * 1000, id="many headers"),
        pytest.param(b"POST /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", id="a long line"),
    ],
)
async def test_what_is_no_http_request_is_refused(data: bytes) -> None:
    async with proxy_world() as world:
        answer = await world.caller.send(data)
        assert (answer.status, answer.json["error"]) == (400, "bad_http")
        assert world.driver.calls == 0
        assert (await world.caller.send(HEALTH)).status == 200


async def test_a_body_that_ends_too_soon_is_no_body() -> None:
    async with proxy_world() as world:
        await world.caller.send(post(TEXT, length=len(TEXT) + 1), eof=True)
        await until(lambda: not connections())
        assert world.driver.calls == 0


async def test_of_pipelined_requests_only_the_first_is_done() -> None:
    async with proxy_world() as world:
        answer = await world.caller.send(
            post(TEXT) + post(TEXT) + post(json.dumps(CREATE).encode())
        )
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert answer.json == {"ok": True, "templates": []}
        assert world.driver.calls == 1
        assert len(world.written.calls) == 1


async def test_a_body_with_more_than_its_length_is_read_as_long_as_it_says() -> None:
    async with proxy_world() as world:
        answer = await world.caller.send(post(TEXT + post(TEXT), length=len(TEXT)))
        assert answer.status == 200
        assert world.driver.calls == 1


# -- many -----------------------------------------------------------------------------------------


async def test_more_connections_than_allowed_wait_their_turn() -> None:
    async with proxy_world() as world, contextlib.AsyncExitStack() as idle:
        held = [
            await idle.enter_async_context(world.caller.connected()) for _ in range(CONNECTIONS_MAX)
        ]
        await until(lambda: len(connections()) == CONNECTIONS_MAX)
        late = asyncio.create_task(world.caller.send(HEALTH))
        await asyncio.sleep(0.05)
        assert not late.done()
        assert len(connections()) == CONNECTIONS_MAX
        held[0][1].transport.abort()
        assert (await late).status == 200


# -- leaving --------------------------------------------------------------------------------------


async def test_a_caller_that_leaves_does_not_end_the_snapshot() -> None:
    async with proxy_world() as world:
        world.driver.gate.clear()
        async with world.caller.connected() as (_, writer):
            writer.write(post(json.dumps(CREATE).encode()))
            await world.driver.entered.wait()
        await until(lambda: not connections())
        world.driver.gate.set()
        await until(lambda: world.written.calls)
        assert len(world.driver.created) == 1
        (line,) = world.written.calls
        assert (line["status"], line["key"]) == (200, "python-ready-1")
        assert line["template_id"]


async def test_leaving_cuts_what_is_under_way_and_says_so() -> None:
    driver = FakeDriver()
    driver.gate.clear()
    with all_written() as written:
        async with serving(outside(driver), ADDRESS, 0) as port:
            asking = asyncio.create_task(Caller(port).ask(LIST))
            await driver.entered.wait()
        assert (await asking).status == 0
        assert [one["result"] for one in written.calls] == ["cancelled"]
        assert connections() == []
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(ADDRESS, port)


async def test_leaving_twice_as_fast_leaves_nothing_either() -> None:
    """Accepted connections that were not served yet; the fds are counted after each test."""
    async with proxy_world() as world:
        for _ in range(8):
            sock = socket.create_connection((ADDRESS, world.caller.port))
            sock.close()
        kept = [socket.create_connection((ADDRESS, world.caller.port)) for _ in range(8)]
    for sock in kept:
        with sock, contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""
