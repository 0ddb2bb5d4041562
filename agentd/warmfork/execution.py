"""Run code in a guest and collect what it gives out (docs/guest-protocol.md, section 4.3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.refusals import refusal
from agentd.warmfork.services import EXECUTE, broken
from agentd.warmfork.stream import Stream
from agentd.wire import api
from agentd.wire.guest import (
    End,
    ExecuteRequest,
    ExecutionEvent,
    Failed,
    Raised,
    Result,
    Stderr,
    Stdout,
    decode_event,
)

# What a result costs beside its text, so that a guest cannot send empty ones without end.
_RESULT_OVERHEAD_CHARS: Final = 256


@asynccontextmanager
async def execute(
    channel: GuestChannel, request: ExecuteRequest
) -> AsyncIterator[AsyncIterator[ExecutionEvent]]:
    """Run code; gives an iterator of events whose last one is `End`.

    Leaving the block early drops the rest of the output, and the execution goes on: use
    `services.interrupt` to stop it. There is no deadline of the host's here: the guest keeps
    `timeout_s`, and a caller that trusts no guest wraps the block into `services.within`.
    Raises: PeerError when the guest breaks the protocol or dies; the guest's refusal.
    Cancellation: as leaving early.
    """
    async with await channel.open(EXECUTE) as stream:
        await stream.write_message(request)
        yield _events(stream, f"execution {request.execution_id}")


async def _events(stream: Stream, what: str) -> AsyncIterator[ExecutionEvent]:
    while (body := await stream.read_message()) is not None:
        try:
            event = decode_event(body)
        except ValueError as exc:
            raise broken(what, str(exc)) from exc
        if isinstance(event, Failed):
            raise refusal(what, event.code, event.message)
        if isinstance(event, End):
            stream.write_eof()
        yield event
        if isinstance(event, End):
            return
    raise broken(what, "the guest closed the stream before the end")


async def collect_execution(
    request: ExecuteRequest, events: AsyncIterator[ExecutionEvent]
) -> api.Execution:
    """The whole outcome of an execution, within the request's limits; raises what `events` does."""
    collector = Collector(request)
    async for event in events:
        collector.add(event)
    return collector.outcome()


class Collector:
    """Add up the events of one execution.

    The limits are kept here again, since a guest may ignore them: output beyond its limit is cut,
    and results beyond theirs are dropped and turn the status into `result_too_large`.
    """

    def __init__(self, request: ExecuteRequest) -> None:
        self._execution_id = request.execution_id
        self._stdout = _Text(request.max_output_bytes)
        self._stderr = _Text(request.max_output_bytes)
        self._results: list[dict[str, Any]] = []
        self._result_chars_left = request.max_result_bytes
        self._overhead_chars_left = request.max_result_bytes + 1024 * _RESULT_OVERHEAD_CHARS
        self._is_too_large = False
        self._text: str | None = None
        self._error: api.ExecutionError | None = None
        self._end: End | None = None

    def add(self, event: ExecutionEvent) -> None:
        """Count one event."""
        if isinstance(event, Stdout):
            self._stdout.add(event.text)
        elif isinstance(event, Stderr):
            self._stderr.add(event.text)
        elif isinstance(event, Result):
            self._add_result(event)
        elif isinstance(event, Raised):
            self._error = api.ExecutionError(
                name=event.name, value=event.value, traceback=event.traceback
            )
        else:
            self._end = event

    def _add_result(self, result: Result) -> None:
        self._result_chars_left -= sum(map(len, result.data.values()))
        self._overhead_chars_left -= _RESULT_OVERHEAD_CHARS + sum(map(len, result.data))
        if self._result_chars_left < 0 or self._overhead_chars_left < 0:
            self._is_too_large = True
        if self._is_too_large:
            return
        self._results.append({"data": result.data, "main": result.main})
        if result.main:
            self._text = result.data.get("text/plain", self._text)

    def outcome(self) -> api.Execution:
        """The outcome; only after an `End`. Raises: PeerError when there was none."""
        end = self._end
        if end is None:
            raise broken(f"execution {self._execution_id}", "the guest sent no end")
        status = "result_too_large" if self._is_too_large and end.status == "ok" else end.status
        return api.Execution(
            execution_id=self._execution_id,
            status=status,
            detail=end.detail,
            stdout=self._stdout.joined(),
            stderr=self._stderr.joined(),
            stdout_truncated=end.stdout_truncated or self._stdout.is_truncated,
            stderr_truncated=end.stderr_truncated or self._stderr.is_truncated,
            results=self._results,
            text=self._text,
            error=self._error,
            execution_count=end.execution_count,
            duration_s=end.duration_s,
            namespace_lost=end.namespace_lost,
        )


class _Text:
    """Text up to a number of UTF-8 bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._left_bytes = limit_bytes
        self._kept = bytearray()
        self.is_truncated = False

    def add(self, text: str) -> None:
        encoded = text.encode()
        if len(encoded) > self._left_bytes:
            self.is_truncated = True
        self._kept += encoded[: self._left_bytes]
        self._left_bytes = max(0, self._left_bytes - len(encoded))

    def joined(self) -> str:
        # A cut may have gone through a character.
        return self._kept.decode("utf-8", "ignore")
