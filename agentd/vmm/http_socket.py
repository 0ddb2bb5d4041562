"""Call a monitor over HTTP on its Unix socket."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Final, Self

import aiohttp

from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError
from agentd.units import MIB

_BODY_MAX_BYTES: Final = 4 * MIB
_JSON: Final = {"Content-Type": "application/json"}
# Not sent, because a monitor's small parser may refuse what it does not know.
_UNSENT: Final = ("Accept-Encoding", "User-Agent")


@dataclass(frozen=True)
class Answer:
    """What came back. status: as HTTP has it; a refusal is an answer too."""

    status: int
    body: bytes


class HttpSocket:
    """An HTTP client of one Unix socket; the owner must `close` it.

    The socket is looked up once, without following links: whoever may write to its directory cannot
    lead us elsewhere, and the path may be longer than a socket's address.

    A call is made on a connection of its own, and never made again: what a monitor was told before
    it hung up may have been done.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pin = -1
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        state = "idle" if self._session is None else "open"
        return f"<HttpSocket {str(self._path)!r} {state}>"

    async def call(
        self, method: str, path: str, body: bytes | None = None, *, deadline_s: float
    ) -> Answer:
        """Make one call. Args: body: JSON.

        Raises: PeerError VMM_FAILED when nobody listens or the connection breaks, VMM_PROTOCOL for
        what is no HTTP; TransientError at the deadline, when it may have been done all the same.
        Cancellation: hangs up, likewise.
        """
        what = f"calling {method} {path} at {str(self._path)!r}"
        try:
            async with asyncio.timeout(deadline_s):
                return await self._call(method, path, body)
        except (TimeoutError, OSError, aiohttp.ClientError) as exc:
            raise _translated(exc, what, deadline_s) from exc

    async def _call(self, method: str, path: str, body: bytes | None) -> Answer:
        headers = None if body is None else _JSON
        async with self._open().request(
            method, f"http://localhost{path}", data=body, headers=headers, allow_redirects=False
        ) as response:
            return Answer(response.status, await _read_body(response.content))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._pin = pin(self._path)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(pinned_path(self._pin), force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                skip_auto_headers=_UNSENT,
                trace_configs=[_connecting_once()],
            )
        return self._session

    async def close(self) -> None:
        """Give everything back. Idempotent."""
        session, self._session = self._session, None
        fd, self._pin = self._pin, -1
        try:
            if session is not None:
                await session.close()
        finally:
            if fd >= 0:
                os.close(fd)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class _RepeatedError(aiohttp.ClientError):
    """A call would be made again."""


def _connecting_once() -> aiohttp.TraceConfig:
    """Keeps aiohttp from repeating what it takes for idempotent when a connection breaks."""

    async def count(
        _session: aiohttp.ClientSession,
        call: SimpleNamespace,
        _params: aiohttp.TraceConnectionCreateStartParams,
    ) -> None:
        if hasattr(call, "has_connected"):
            raise _RepeatedError("the connection broke")
        call.has_connected = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(count)
    return trace


class _TooLongError(aiohttp.ClientError):
    """An answer longer than any that a monitor gives."""


async def _read_body(content: aiohttp.StreamReader) -> bytes:
    body = b""
    while part := await content.read(_BODY_MAX_BYTES):
        body += part
        if len(body) > _BODY_MAX_BYTES:
            raise _TooLongError(f"the answer has more than {_BODY_MAX_BYTES} bytes")
    return body


def pin(path: Path) -> int:
    """A descriptor of the socket itself, owned by the caller: a link in its place is refused.

    Raises: OSError (ENOTSOCK: it is something else).
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTSOCK, "it is not a socket", str(path))
    except BaseException:
        os.close(fd)
        raise
    return fd


def pinned_path(fd: int) -> str:
    """What connect(2) takes for a pinned socket."""
    return f"/proc/self/fd/{fd}"


def _translated(exc: Exception, what: str, deadline_s: float) -> SnapStartError:
    if isinstance(exc, TimeoutError):
        message = f"{what}: no answer in {deadline_s:g} s"
        hint = "the host may be overloaded; look at the monitor's log"
        return TransientError(ErrorCode.DEADLINE_EXCEEDED, message, hint=hint)
    if isinstance(
        exc, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | _RepeatedError
    ):
        return PeerError(ErrorCode.VMM_FAILED, f"{what}: it hung up")
    if isinstance(exc, OSError):  # aiohttp's errors of the connection among them
        return PeerError(ErrorCode.VMM_FAILED, f"{what}: {exc.strerror or exc}")
    return PeerError(ErrorCode.VMM_PROTOCOL, f"{what}: {exc!r}")
