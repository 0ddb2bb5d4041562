"""What a server that ends does not read is told to its client as unread."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from agentd.http.leaving import Leaving

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"


class Server:
    """An application whose only handler waits to be let go, and counts."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.begun = asyncio.Event()
        self.bodies: list[bytes] = []
        app = web.Application()
        app.router.add_post("/", self._handle)
        self.leaving = Leaving(app)
        self.runner = web.AppRunner(app, shutdown_timeout=10.0)

    async def _handle(self, request: web.Request) -> web.Response:
        self.begun.set()
        self.bodies.append(await request.read())
        await self.goes_on.wait()
        return web.Response(text="done")

    async def listen(self, path: Path) -> None:
        await self.runner.setup()
        await web.UnixSite(self.runner, str(path)).start()

    def leave(self) -> None:
        assert self.runner.server is not None
        self.leaving.begin(self.runner.server.connections)


async def reply_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head
    return await reader.readexactly(4)


async def test_a_request_that_comes_behind_another_is_left_unread(tmp_path: Path) -> None:
    server = Server()
    await server.listen(tmp_path / "socket")
    reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
    writer.write(REQUEST % (1, b"a"))
    await server.begun.wait()
    server.leave()
    writer.write(REQUEST % (1, b"b"))
    await writer.drain()
    server.goes_on.set()
    assert await reply_of(reader) == b"done"
    await server.runner.cleanup()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    assert server.bodies == [b"a"]
    writer.close()


async def test_a_request_that_is_still_arriving_is_read_and_answered(tmp_path: Path) -> None:
    server = Server()
    server.goes_on.set()
    await server.listen(tmp_path / "socket")
    reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
    writer.write(REQUEST % (2, b"a"))
    await server.begun.wait()
    server.leave()
    writer.write(b"b")
    assert await reply_of(reader) == b"done"
    assert server.bodies == [b"ab"]
    await server.runner.cleanup()
    writer.close()
