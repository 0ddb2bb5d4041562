"""Speak HTTP with one caller, for one request.

aiohttp gives a peer that dawdles over its headers, or over reading a reply, all the time it likes,
and writes what it cannot parse into its log, where a token would be read. Both are put right here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, cast

import structlog
from aiohttp import web

from agentd.proxy.limits import HEADERS_MAX, LINE_MAX_BYTES, Deadlines

# What it would say is said by `log_exception`, without values.
_SILENT: Final = logging.getLogger("agentd.proxy.silent")
_SILENT.disabled = True

# The reply to what is no HTTP request. Args: the connection.
AnswerBad = Callable[["Connection"], web.Response]


class Connection(web.RequestHandler):
    """A connection; `closed` is done once it is gone.

    Whatever is allowed no more time cuts it. Args: answer_bad: also writes the log.
    """

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        answer_bad: AnswerBad,
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=cast(logging.Logger, None),
            logger=_SILENT,
            keepalive_timeout=0,
            lingering_time=deadlines.linger_s,
            # A small body that unpacks to a large one is refused, not unpacked.
            auto_decompress=False,
            max_line_size=LINE_MAX_BYTES,
            max_field_size=LINE_MAX_BYTES,
            max_headers=HEADERS_MAX,
        )
        self.closed: asyncio.Future[None] = loop.create_future()
        self._deadlines = deadlines
        self._answer_bad = answer_bad
        self._own_loop = loop
        self._wire: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """From here on the headers are waited for."""
        super().connection_made(transport)
        self._wire = cast(asyncio.Transport, transport)
        self.allow(self._deadlines.header_s)

    def connection_lost(self, exc: BaseException | None) -> None:
        """A handler that still works goes on."""
        super().connection_lost(exc)
        self._wire = None
        self.allow(None)
        if not self.closed.done():
            self.closed.set_result(None)

    def allow(self, seconds: float | None) -> None:
        """Cut the connection unless this is called again in time; None: there is no hurry."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if seconds is not None and self._wire is not None:
            self._limit = self._own_loop.call_later(seconds, self._wire.abort)

    @property
    def caller(self) -> str:
        """The peer's address."""
        peer = self._wire.get_extra_info("peername") if self._wire else None
        return str(peer[0]) if peer else ""

    @property
    def subject(self) -> str:
        """The name in the peer's certificate, such as `O=agentcube,CN=manager`; else empty."""
        certificate = self._wire.get_extra_info("peercert") if self._wire else None
        names = (pair for part in (certificate or {}).get("subject", ()) for pair in part)
        return ",".join(f"{_SHORT.get(kind, kind)}={value}" for kind, value in names)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Called for what is no HTTP; `message` holds its bytes, and is told to nobody."""
        self.allow(self._deadlines.answer_s)
        return self._answer_bad(self)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """The kind alone: the words may hold what the peer sent."""
        kind = type(kw.get("exc_info")).__name__
        structlog.get_logger().warning("proxy.http.failed", caller=self.caller, error=kind)


_SHORT: Final = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU"}
