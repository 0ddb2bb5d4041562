"""Stop reading from connections of a server that ends, so that nothing is read and then dropped.

aiohttp goes on reading while it closes, and forgets what it read. What stays in the socket instead
makes the kernel answer ECONNRESET once it is closed: the client knows that its request was never
seen, and sends it to the next server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol, cast

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware


class _Connection(Protocol):
    """What aiohttp has for each connection."""

    transport: asyncio.Transport | None


class Leaving:
    """Of one application, which has it as its outermost middleware."""

    def __init__(self, app: web.Application) -> None:
        self._is_leaving = False
        self._requests: dict[int, web.Request] = {}  # which have no hash
        app.middlewares.insert(0, self._watched())

    def begin(self, connections: Iterable[_Connection]) -> None:
        """Read no more than what is still to come of requests that have begun."""
        self._is_leaving = True
        arriving = {id(one.protocol) for one in self._requests.values() if not one.content.is_eof()}
        for connection in connections:
            if id(connection) not in arriving:
                _pause(connection.transport)

    def _watched(self) -> Middleware:
        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._requests[id(request)] = request
            try:
                return await handler(request)
            finally:
                del self._requests[id(request)]
                # Before the end of the reply: the client must not answer that with another request.
                if self._is_leaving:
                    _pause(request.transport)

        return watch


def _pause(transport: asyncio.BaseTransport | None) -> None:
    """None: its peer is gone. Doing it twice is harmless."""
    if transport is not None and not transport.is_closing():
        cast(asyncio.ReadTransport, transport).pause_reading()
