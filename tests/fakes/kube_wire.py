"""A server that sends whatever a test wants an API server to send."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from controlplane.api.meta import JsonObject

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class WireServer:
    """Answers with `answer`; remembers what it was asked."""

    url: str = ""
    answer: Answer | None = None
    asked: list[Asked] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Remember, answer."""
        raw = await request.read()
        body = json.loads(raw) if raw else None
        self.asked.append(
            Asked(request.method, request.path, dict(request.query), dict(request.headers), body)
        )
        assert self.answer is not None
        return await self.answer(request)


@asynccontextmanager
async def serve_wire(tls: ssl.SSLContext | None = None) -> AsyncIterator[WireServer]:
    """A server on a free port of this machine."""
    server = WireServer()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()


def replies(body: JsonObject | bytes, status: int = 200, **headers: str) -> Answer:
    """The same answer to everything."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=raw, status=status, headers=names, content_type="application/json")

    return answer


def streams(*chunks: bytes, then: str = "end") -> Answer:
    """A chunked answer. then: "end" it, "break" the connection, or "hang"."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        if then == "hang":
            await asyncio.sleep(3600)
        if then == "break" and request.transport is not None:
            request.transport.abort()
        return response

    return answer


async def hangs(request: web.Request) -> web.StreamResponse:
    """No answer."""
    await asyncio.sleep(3600)
    raise AssertionError


async def breaks(request: web.Request) -> web.StreamResponse:
    """A connection that is closed before the answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
