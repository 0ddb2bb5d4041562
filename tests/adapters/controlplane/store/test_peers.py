"""Servers that answer, but not well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from controlplane.errors import ControlPlaneError, UnavailableError
from controlplane.store.clients import RedisLimits
from controlplane.store.endpoint import Credentials, parse_endpoint
from controlplane.store.redis import RedisStore
from tests.adapters.controlplane.store.samples import KEY, manifest

LIMITS = RedisLimits(connect_s=1.0, call_s=0.3, connections=2)


@asynccontextmanager
async def peer(reply: bytes | None) -> AsyncIterator[RedisStore]:
    """A store whose server gives one reply to every request; None: it hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65536) and reply is not None:
                writer.write(reply)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = RedisStore(parse_endpoint(f"127.0.0.1:{port}", Credentials()), LIMITS)
    try:
        yield store
    finally:
        await store.close()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    "reply",
    [
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-CLUSTERDOWN The cluster is down\r\n",
        b"-NOREPLICAS Not enough good replicas to write.\r\n",
        b"-MOVED 1 127.0.0.1:1\r\n",
        b"-ERR something new\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$5\r\nab",
        b"$999999999999999999999\r\n",
        b"\x00\xff",
        None,
    ],
    ids=lambda reply: str(reply)[2:14],
)
async def test_no_bad_answer_is_taken_for_an_empty_one(reply: bytes | None) -> None:
    async with peer(reply) as store:
        with pytest.raises(UnavailableError):
            await store.get(KEY)
        with pytest.raises(UnavailableError):
            await store.put(KEY, manifest(), None)
        with pytest.raises(UnavailableError):
            await store.delete(KEY)
        with pytest.raises(UnavailableError):
            await anext(store.list())


@pytest.mark.parametrize("reply", [b":7\r\n", b"*-1\r\n", b"+OK\r\n"])
async def test_an_answer_of_another_kind_is_an_error_of_ours(reply: bytes) -> None:
    async with peer(reply) as store:
        with pytest.raises(ControlPlaneError):
            await store.put(KEY, manifest(), None)


async def test_nobody_listening_is_unavailable() -> None:
    store = RedisStore(parse_endpoint("127.0.0.1:1", Credentials()), LIMITS)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1"):
        await store.get(KEY)
    await store.close()
