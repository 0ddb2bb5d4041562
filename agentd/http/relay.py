"""Pass requests to the HTTP interface inside a guest."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from agentd.errors import ErrorCode, PeerError, SnapStartError
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.relay import relay_http

# RFC 9110, section 7.6.1: meant for one connection only; each side of the relay has its own.
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
    }
)
_serial = itertools.count()


async def pass_on(
    request: web.Request, channel: GuestChannel, run_dir: Path, path: str, connect_s: float
) -> web.StreamResponse:
    """Send a request to the guest, its answer to the client, both as streams.

    Args: run_dir: private; holds a socket for the time of the request. path: within the guest.
    connect_s: seconds until the guest's first byte.
    Raises: PeerError if the guest does not speak HTTP. Cancellation: resets the stream.
    """
    async with _client(channel, run_dir) as client:
        try:
            answer = await asyncio.wait_for(
                client.request(
                    request.method,
                    f"http://guest/{path}",
                    params=request.rel_url.query,
                    headers=_passed(request.headers),
                    data=request.content if request.body_exists else None,
                    allow_redirects=False,
                ),
                connect_s,
            )
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise PeerError(
                ErrorCode.GUEST_PROTOCOL,
                f"passing {request.method} /{path} to the guest: {exc!r}",
                hint="its runtime may be busy or gone; look at the session",
            ) from exc
        async with answer:
            return await _pass_back(request, answer)


async def _pass_back(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(
        status=answer.status, reason=answer.reason, headers=_passed(answer.headers)
    )
    await response.prepare(request)
    async for chunk in answer.content.iter_any():
        await response.write(chunk)
    await response.write_eof()
    return response


def _passed(headers: object) -> CIMultiDict[str]:
    kept: CIMultiDict[str] = CIMultiDict()
    for name, value in headers.items():  # type: ignore[attr-defined]
        if name.lower() not in _HOP_BY_HOP:
            kept.add(name, value)
    return kept


@asynccontextmanager
async def _client(channel: GuestChannel, run_dir: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client whose one connection is a stream of the channel."""

    async def splice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        splices.add(task)
        try:
            # Cancelled by us alone, at the end; asyncio's stream server takes that for an error.
            with suppress(SnapStartError, OSError, asyncio.CancelledError):
                await relay_http(channel, reader, writer)
        finally:
            writer.transport.abort()

    splices: set[asyncio.Task[object]] = set()
    path = run_dir / f"h{next(_serial)}"
    server = await asyncio.start_unix_server(splice, path)
    try:
        connector = aiohttp.UnixConnector(str(path), limit=1)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as client:
            yield client
    finally:
        server.close()
        for task in splices:
            task.cancel()
        if splices:
            await asyncio.wait(splices)
        path.unlink(missing_ok=True)
