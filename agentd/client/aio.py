"""Exchange HTTP with the daemon over its Unix socket, under asyncio."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import TypeVar

import aiohttp
from yarl import URL

from agentd.client import calls, failures
from agentd.client.calls import Call
from agentd.client.patience import LOOK_EVERY_S, Patience
from agentd.errors import ErrorCode, UsageError

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 5.0


class AsyncTransport:
    """Sends calls over kept connections; belongs to one event loop.

    Args: socket_path: the daemon's socket; None takes SNAPSTART_SOCKET or the packaged default.
    """

    def __init__(self, socket_path: str | os.PathLike[str] | None = None) -> None:
        self.socket_path = os.fspath(socket_path or calls.default_socket())
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._was_served = False

    def __repr__(self) -> str:
        return f"<AsyncTransport {self.socket_path} {'closed' if self._closed else 'open'}>"

    async def send(self, call: Call[T]) -> T:
        """Send a call and decode its reply.

        Raises: as `Transport.send`. Cancellation: closes the connection the call was on.
        """
        body = bytearray()
        async with self.stream(call) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > call.limit_bytes:
                    raise failures.oversized(call.what, call.limit_bytes)
        return call.decode(bytes(body))

    @asynccontextmanager
    async def stream(self, call: Call[T]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a call and give its reply's bytes as they come.

        Raises: as `send`. Leaving before the end, or cancellation, closes the connection.
        """
        async with AsyncExitStack() as stack:
            with self._translated(call):
                response = await self._answered(stack, call)
                if response.status >= 400:
                    body = await response.content.read(1 << 20)
                    after = response.headers.get("Retry-After")
                    raise failures.refusal(call.what, response.status, body, after)
            yield self._pieces(call, response)

    async def _answered(self, stack: AsyncExitStack, call: Call[T]) -> aiohttp.ClientResponse:
        """The beginning of a reply, on a second connection if the daemon was replaced."""
        patience = Patience(call, was_served=self._was_served, now_s=time.monotonic())
        while True:
            try:
                response = await stack.enter_async_context(self._request(call))
                self._was_served = True
                return response
            except aiohttp.ClientConnectorError as exc:
                if not patience.may_wait(exc.os_error, time.monotonic()):
                    raise
                await asyncio.sleep(LOOK_EVERY_S)
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as exc:
                if not patience.may_repeat(exc if isinstance(exc, OSError) else None):
                    raise

    def _request(self, call: Call[T]) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._open(call).request(
            call.method,
            URL(f"http://localhost{call.path}", encoded=True),
            data=_streamed(call.body) if isinstance(call.body, calls.Upload) else call.body,
            headers=call.headers(),
            timeout=aiohttp.ClientTimeout(total=call.timeout_s, sock_connect=_CONNECT_TIMEOUT_S),
            allow_redirects=False,
        )

    async def _pieces(
        self, call: Call[T], response: aiohttp.ClientResponse
    ) -> AsyncIterator[bytes]:
        # Only the reads are translated: what the caller raises between them is the caller's.
        while True:
            with self._translated(call):
                piece = await response.content.readany()
            if not piece:
                return
            yield piece

    @contextmanager
    def _translated(self, call: Call[T]) -> Iterator[None]:
        try:
            yield
        except aiohttp.ClientConnectorError as exc:
            raise failures.unreachable(call.what, self.socket_path, exc.os_error) from exc
        except TimeoutError as exc:
            raise failures.late(call.what, call.timeout_s) from exc
        except (aiohttp.ClientError, ConnectionError) as exc:
            detail = "the reply was cut short" if _is_cut(exc) else exc
            raise failures.broken(call.what, self.socket_path, detail) from exc

    async def close(self) -> None:
        """Close the connections and refuse further calls; may be called again."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self, call: Call[T]) -> aiohttp.ClientSession:
        if self._closed:
            raise UsageError(
                ErrorCode.SESSION_ENDED,
                f"{call.what}: this client is closed",
                hint="make a new one, for example with AsyncSandbox.connect(id)",
            )
        if self._session is None:
            connector = aiohttp.UnixConnector(self.socket_path)
            self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self._session


async def _streamed(upload: calls.Upload) -> AsyncIterator[bytes]:
    pieces = upload.pieces()
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece


def _is_cut(exc: Exception) -> bool:
    return isinstance(exc, aiohttp.ClientPayloadError)
