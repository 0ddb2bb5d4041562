"""Send spans to a collector, or lose them: nothing else ever waits or fails for that.

A queue of bounded length, one task that empties it each second. Spans that find the queue full,
cannot be sent, or are rejected by the collector are dropped and counted. Nothing is tried again: a
collector that is away or slow costs what waits in the queue, and never memory or time of sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Final, Protocol
from urllib.parse import urlsplit

from agentd.tracing.span import Span

_PATH: Final = "/v1/traces"
_MOST_WAITING: Final = 2048
_BATCH: Final = 256
_EVERY_S: Final = 1.0
_ANSWER_S: Final = 10.0
_LAST_S: Final = 2.0  # for what waits when the program stops
_REPLY_BYTES: Final = 64 * 1024


class TracingError(Exception):
    """Traces are asked for, and cannot be made; the text says what to do."""


class Report(Protocol):
    """How a program notes what becomes of its traces; as `Tracer.step`."""

    def __call__(self, event: str, /, **details: str | int | float) -> None: ...


def check_endpoint(endpoint: str) -> str:
    """Why this is no collector's address; empty if it is one."""
    try:
        parts = urlsplit(endpoint)
        _ = parts.port
    except ValueError as exc:
        return str(exc)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "it is no URL of http or https"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "it holds more than scheme, host, port, path"
    return ""


class Exporter:
    """Takes spans from the event loop's thread.

    Args: endpoint: of the collector, without /v1/traces. resource: what is said of this program.
    Raises: TracingError without the packages of the extra `otel`.
    """

    def __init__(self, endpoint: str, resource: Mapping[str, str], report: Report) -> None:
        self._url = endpoint.rstrip("/") + _PATH
        self._resource = resource
        self._report = report
        self._otlp = _load_otlp()
        self._waiting: deque[Span] = deque()
        self._is_failing = False

    def offer(self, span: Span) -> None:
        """Take a span, if it is to be recorded and there is room."""
        if not span.context.is_sampled:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self._report("trace.dropped", spans=1, why="full")
            return
        self._waiting.append(span)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send while inside; then what waits, for 2 s at most."""
        task = asyncio.create_task(self._run(), name="traces")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_S):
                    await self._send_waiting()
            self._drop(len(self._waiting), "unsent")
            self._waiting.clear()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self._send_waiting()

    async def _send_waiting(self) -> None:
        while self._waiting:
            count = min(_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            try:
                rejected = await self._send(batch)
            except asyncio.CancelledError:
                self._drop(count, "unsent")
                raise
            except Exception as exc:
                self._drop(count, "unsent")
                self._note(str(exc) or type(exc).__name__)
                return  # the rest has its turn in a second
            self._drop(rejected, "rejected")
            self._note("")

    async def _send(self, batch: list[Span]) -> int:
        """Returns: how many the collector did not take. Raises: anything."""
        import aiohttp

        body = await asyncio.to_thread(self._otlp.encode, batch, self._resource)
        limit = aiohttp.ClientTimeout(total=_ANSWER_S)
        headers = {"Content-Type": "application/x-protobuf"}
        async with (
            aiohttp.ClientSession(timeout=limit, headers=headers) as session,
            session.post(self._url, data=body, allow_redirects=False) as answer,
        ):
            said = await answer.content.read(_REPLY_BYTES)
            if answer.status != 200:
                raise TracingError(f"{self._url} answered {answer.status} {answer.reason}")
            rejected: int = self._otlp.count_rejected(said)
            return rejected

    def _drop(self, count: int, why: str) -> None:
        if count > 0:
            self._report("trace.dropped", spans=count, why=why)

    def _note(self, error: str) -> None:
        """An outage is told once, and its end."""
        was_failing, self._is_failing = self._is_failing, bool(error)
        if error and not was_failing:
            self._report("trace.export.failed", endpoint=self._url, error=error)
        elif was_failing and not error:
            self._report("trace.export.resumed", endpoint=self._url)


def _load_otlp() -> ModuleType:
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.proto") is None:
        raise TracingError(
            "tracing.endpoint is set, but the package opentelemetry-proto is not installed; "
            "pip install 'agentcube-snapstart[otel]', or unset it"
        )
    from agentd.tracing import otlp

    return otlp
