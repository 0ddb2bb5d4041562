"""Collect the events of one execution into its outcome."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agentd.client import failures
from agentd.errors import ErrorCode, PeerError
from agentd.units import MIB
from agentd.wire import api

# A message of the guest is at most 4 MiB (guest protocol, section 3), its JSON may be re-escaped.
MAX_EVENT_BYTES = 32 * MIB


class _Stdout(msgspec.Struct, frozen=True, tag_field="type", tag="stdout"):
    text: str


class _Stderr(msgspec.Struct, frozen=True, tag_field="type", tag="stderr"):
    text: str


class _Result(msgspec.Struct, frozen=True, tag_field="type", tag="result"):
    data: dict[str, Any]
    main: bool = False


class _Error(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    name: str
    value: str
    traceback: list[str] = []


class _End(msgspec.Struct, frozen=True, tag_field="type", tag="end"):
    status: str
    detail: str | None = None
    execution_count: int = 0
    duration_s: float = 0.0
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    namespace_lost: bool = False


class _Failed(msgspec.Struct, frozen=True, tag_field="type", tag="failed"):
    code: str
    message: str
    hint: str = ""


_Event = _Stdout | _Stderr | _Result | _Error | _End | _Failed
_DECODER: msgspec.json.Decoder[_Event] = msgspec.json.Decoder(_Event)


@dataclass(frozen=True)
class OutputMessage:
    """A piece of output as it came; `error` tells stderr from stdout."""

    line: str
    error: bool = False

    def __str__(self) -> str:
        return self.line


@dataclass(frozen=True)
class Result:
    """One rich value: `data` maps MIME types to text, or to base64 where the type is binary."""

    data: dict[str, Any]
    is_main_result: bool = False

    def formats(self) -> list[str]:
        """The MIME types at hand."""
        return list(self.data)

    @property
    def text(self) -> str | None:
        """The plain text, as `repr` would print it."""
        return self.data.get("text/plain")

    @property
    def html(self) -> str | None:
        """The HTML form."""
        return self.data.get("text/html")

    @property
    def markdown(self) -> str | None:
        """The Markdown form."""
        return self.data.get("text/markdown")

    @property
    def svg(self) -> str | None:
        """The SVG image."""
        return self.data.get("image/svg+xml")

    @property
    def png(self) -> str | None:
        """The PNG image in base64."""
        return self.data.get("image/png")

    @property
    def jpeg(self) -> str | None:
        """The JPEG image in base64."""
        return self.data.get("image/jpeg")

    @property
    def json(self) -> Any:
        """The JSON form."""
        return self.data.get("application/json")


@dataclass(frozen=True)
class ExecutionError:
    """An exception the code raised; `traceback` is printable text."""

    name: str
    value: str
    traceback: str = ""


@dataclass
class Logs:
    """What the code printed, in the pieces in which it came."""

    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)


@dataclass
class Execution:
    """The outcome of running one piece of code.

    `status` is as in the guest protocol, section 4.3: `ok`, `error`, `timeout`, `interrupted`,
    `exited`, `signalled`, `out_of_memory` or `result_too_large`; `detail` explains it.
    `namespace_lost` tells that the session's variables are gone.
    """

    results: list[Result] = field(default_factory=list)
    logs: Logs = field(default_factory=Logs)
    error: ExecutionError | None = None
    status: str = ""
    detail: str = ""
    execution_count: int = 0
    duration_s: float = 0.0
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    namespace_lost: bool = False

    @property
    def text(self) -> str | None:
        """The plain text of the last expression's value, or None if it had none."""
        return next((r.text for r in reversed(self.results) if r.is_main_result), None)


Notice = OutputMessage | Result | ExecutionError


class Collector:
    """Reads an execution's events from bytes in whatever pieces they come; does no I/O.

    Args: what: the attempt in words, for errors.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._rest = bytearray()
        self._done = False
        self._execution = Execution()

    def feed(self, data: bytes) -> Iterator[Notice]:
        """Take bytes in; yield what the caller may want to see at once.

        Raises: PeerError for events that are not understood, UsageError for one that is too large,
        and whatever the daemon reports in place of an end.
        """
        *lines, tail = data.split(b"\n")
        for line in lines:
            whole = bytes(self._rest) + line
            self._rest.clear()
            if whole.strip():
                yield from self._take(self._decode(whole))
        self._rest += tail
        if len(self._rest) > MAX_EVENT_BYTES:
            raise failures.oversized(self._what, MAX_EVENT_BYTES)

    def finish(self, socket_path: str) -> Execution:
        """The outcome, when the stream is over.

        Raises: TransientError if it ended before the execution did.
        """
        if not self._done:
            raise failures.broken(self._what, socket_path, "the execution's end was not reported")
        return self._execution

    def _decode(self, line: bytes) -> _Event:
        try:
            return _DECODER.decode(line)
        except msgspec.MsgspecError as exc:
            try:
                reply = msgspec.json.decode(line, type=api.ErrorReply)
            except msgspec.MsgspecError:
                raise failures.unreadable(self._what, exc) from exc
            raise failures.error_of(reply.error) from None

    def _take(self, event: _Event) -> Iterator[Notice]:
        if self._done:
            raise PeerError(ErrorCode.GUEST_PROTOCOL, f"{self._what}: an event followed the end")
        match event:
            case _Stdout(text):
                self._execution.logs.stdout.append(text)
                yield OutputMessage(text)
            case _Stderr(text):
                self._execution.logs.stderr.append(text)
                yield OutputMessage(text, error=True)
            case _Result(data, main):
                result = Result(data, main)
                self._execution.results.append(result)
                yield result
            case _Error(name, value, traceback):
                text = "\n".join(line.rstrip("\n") for line in traceback)
                self._execution.error = ExecutionError(name, value, text)
                yield self._execution.error
            case _End():
                self._end(event)
            case _Failed(code, message, hint):
                body = api.ErrorBody(code=code, message=f"{self._what}: {message}", hint=hint)
                raise failures.error_of(body)

    def _end(self, event: _End) -> None:
        self._done = True
        outcome = self._execution
        outcome.status, outcome.detail = event.status, event.detail or ""
        outcome.execution_count, outcome.duration_s = event.execution_count, event.duration_s
        outcome.stdout_truncated = event.stdout_truncated
        outcome.stderr_truncated = event.stderr_truncated
        outcome.namespace_lost = event.namespace_lost
