"""Send requests to an API server with credentials that are renewed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
import msgspec
from kubernetes_asyncio.client import ApiClient
from kubernetes_asyncio.config import ConfigException

from controlplane.api.meta import JsonObject
from controlplane.errors import ConfigError, PeerError
from controlplane.kube import wire
from controlplane.kube.connect import KubeSettings, call_timeout, open_session, watch_timeout
from controlplane.kube.failures import connection_error, status_error

_RENEWAL_PAUSE_S: Final = 10.0
_JSON: Final = "application/json"
_CLOSED: Final = "this client is closed"
_BROKEN: Final = (aiohttp.ClientError, TimeoutError, OSError, ConfigException)


@dataclass(frozen=True)
class Call:
    """One request. what: for messages."""

    what: str
    method: str
    path: str
    query: dict[str, str]
    body: JsonObject | None = None
    content_type: str = _JSON


async def open_transport(
    settings: KubeSettings, environ: Mapping[str, str] | None = None
) -> Transport:
    """With credentials as they are now; nothing is sent yet. Raises: ConfigError."""
    variables = dict(os.environ if environ is None else environ)

    async def renew() -> ApiClient:
        return await open_session(settings, variables)

    return Transport(settings, await renew(), renew)


class _Session:
    """One set of credentials with its connections; once retired, closed by its last user."""

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        self._users = 0
        self._is_retired = False

    @asynccontextmanager
    async def used(self) -> AsyncGenerator[None, None]:
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._close_if_unused()

    @property
    def is_closed(self) -> bool:
        return self.client.rest_client.pool_manager.closed

    async def retire(self) -> None:
        self._is_retired = True
        await self._close_if_unused()

    async def _close_if_unused(self) -> None:
        if self._is_retired and not self._users:
            await self.client.close()


class Transport:
    """Owns the connections.

    Credentials that the server no longer takes are loaded anew, at most every ten seconds.
    """

    def __init__(
        self,
        settings: KubeSettings,
        client: ApiClient,
        renew: Callable[[], Awaitable[ApiClient]],
    ) -> None:
        self.settings = settings
        self._sessions = [_Session(client)]  # the last one is current; those before end by use
        self._renew = renew
        self._open: set[aiohttp.ClientResponse] = set()
        self._renewing = asyncio.Lock()
        self._renewed_at = -_RENEWAL_PAUSE_S

    async def close(self) -> None:
        """Close all connections, also those in use. Safe to repeat."""
        for response in self._open:  # aiohttp would leave their readers waiting
            response.content.set_exception(aiohttp.ClientConnectionError(_CLOSED))
        for session in self._sessions:
            await session.client.close()
        await asyncio.sleep(0)  # what was aborted is closed by the next turn of the loop

    async def fetch(self, call: Call) -> bytes:
        """The body of a 2xx answer. Raises: what the status stands for; UnavailableError."""
        async with self._answer(call, call_timeout(self.settings)) as response:
            return await self._read(call.what, response)

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """The lines of a 2xx answer, until it ends or is silent. Raises: as fetch; PeerError."""
        async with self._answer(call, watch_timeout(self.settings)) as response:
            buffer = wire.LineBuffer(call.what, self.settings.line_max_bytes)
            try:
                async for chunk in response.content.iter_any():
                    for line in buffer.feed(chunk):
                        yield line
            except TimeoutError:
                return  # silence
            except _BROKEN as exc:
                raise connection_error(call.what, exc) from exc
            if buffer.has_rest:
                raise connection_error(call.what, EOFError("it stopped within an event"))

    @asynccontextmanager
    async def _answer(
        self, call: Call, timeout: aiohttp.ClientTimeout
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """A 2xx answer, with new credentials if the present ones are refused."""
        session = self._sessions[-1]
        async with session.used(), await self._send(session, call, timeout) as response:
            if response.status != 401 or not await self._has_renewed(session):
                with self._opened(response):
                    await self._check(call, response)
                    yield response
                return
        session = self._sessions[-1]
        async with session.used(), await self._send(session, call, timeout) as response:
            with self._opened(response):
                await self._check(call, response)
                yield response

    @contextmanager
    def _opened(self, response: aiohttp.ClientResponse) -> Iterator[None]:
        self._open.add(response)
        try:
            yield
        finally:
            self._open.discard(response)
            _abort_unread(response)

    async def _send(
        self, session: _Session, call: Call, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        try:
            return await self._request(session.client, call, timeout)
        except aiohttp.ClientSSLError as exc:
            await self._has_renewed(session)  # the next call may fare better
            raise connection_error(call.what, exc) from exc
        except Exception as exc:
            is_closed = session.is_closed
            if is_closed or isinstance(exc, _BROKEN):
                error = ConnectionError(_CLOSED) if is_closed else exc
                raise connection_error(call.what, error) from exc
            raise

    async def _request(
        self, client: ApiClient, call: Call, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        headers = {
            "Accept": _JSON,
            "Content-Type": call.content_type,
            "User-Agent": client.user_agent,
        }
        await client.update_params_for_auth(headers, [], ["BearerToken"])
        response: aiohttp.ClientResponse = await client.rest_client.request(
            call.method,
            f"{client.configuration.host}{call.path}",
            query_params=call.query,
            headers=headers,
            body=None if call.body is None else msgspec.to_builtins(call.body),
            _preload_content=False,
            _request_timeout=timeout,
        )
        return response

    async def _has_renewed(self, refused: _Session) -> bool:
        """Whether there is another session than the refused one now."""
        async with self._renewing:
            if self._sessions[-1] is not refused:
                return True
            if time.monotonic() - self._renewed_at < _RENEWAL_PAUSE_S:
                return False
            self._renewed_at = time.monotonic()
            try:
                new = _Session(await self._renew())
            except ConfigError:
                return False
            self._sessions = [s for s in self._sessions if not s.is_closed] + [new]
            await refused.retire()
            return True

    async def _check(self, call: Call, response: aiohttp.ClientResponse) -> None:
        if not 200 <= response.status <= 299:
            body = await self._read(call.what, response)
            retry_after = response.headers.get("Retry-After", "")
            raise status_error(call.what, response.status, body, retry_after)

    async def _read(self, what: str, response: aiohttp.ClientResponse) -> bytes:
        parts, size = [], 0
        try:
            async for chunk in response.content.iter_any():
                parts.append(chunk)
                size += len(chunk)
                if size > self.settings.response_max_bytes:
                    raise PeerError(f"{what}: an answer of more than {size} bytes")
        except _BROKEN as exc:
            raise connection_error(what, exc) from exc
        return b"".join(parts)


def _abort_unread(response: aiohttp.ClientResponse) -> None:
    """End a connection whose answer is not read to its end; TLS would wait for the other side."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
