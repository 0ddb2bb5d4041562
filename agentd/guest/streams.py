"""Give each stream of a multiplexer to the service it was opened for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from agentd.guest import wire
from agentd.guest.mux import (
    Broken,
    Event,
    Finished,
    Mux,
    Opened,
    Received,
    Resynced,
    WasReset,
    Writable,
)
from agentd.guest.wire import JsonObject, MessageReader, WireError


class Stream:
    """The guest's end of one stream."""

    def __init__(self, mux: Mux, number: int) -> None:
        self._mux = mux
        self._number = number

    def write(self, data: bytes) -> None:
        """Queue raw bytes."""
        self._mux.send(self._number, data)

    def before_leaving(self, callback: Callable[[], None]) -> None:
        """Call once, just before what is queued now begins to go to the host."""
        self._mux.before_leaving(callback)

    def send(self, message: JsonObject) -> None:
        """Queue one message; one over the limit becomes a failure in its place."""
        try:
            encoded = wire.encode_message(message)
        except WireError as exc:
            failed = {"type": "failed", "code": "io_error", "message": str(exc)}
            encoded = wire.encode_message(failed)
        self._mux.send(self._number, encoded)

    def fail(self, code: str, message: str) -> None:
        """Answer that the request cannot be served, then close."""
        self.send({"type": "failed", "code": code, "message": message})
        self.finish()

    def finish(self) -> None:
        """Nothing follows what has been queued."""
        self._mux.close(self._number)

    def reset(self, code: str, message: str) -> None:
        """End both directions now."""
        self._mux.reset(self._number, code, message)

    def consume(self, size_bytes: int) -> None:
        """Bytes received have been dealt with."""
        self._mux.consume(self._number, size_bytes)

    def queued_bytes(self) -> int:
        """Bytes waiting for credit."""
        return self._mux.queued_bytes(self._number)


class Handler(Protocol):
    """One open stream's service; it calls `consume` for what it receives."""

    def on_data(self, data: bytes) -> None:
        """Bytes came."""

    def on_finish(self) -> None:
        """The host sends no more."""

    def on_gone(self) -> None:
        """The stream has ended under us."""

    def on_writable(self) -> None:
        """What was queued has gone out."""


class RefusedError(Exception):
    """A stream is not served; it is reset with this code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


Factory = Callable[[Stream, JsonObject], Handler]


class MessageHandler:
    """Base of the services that exchange messages; ignores what it does not override."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._reader = MessageReader()

    def on_data(self, data: bytes) -> None:
        """Cut into messages; a broken one ends the stream."""
        self._reader.feed(data)
        self.stream.consume(len(data))
        try:
            while (message := self._reader.next()) is not None:
                self.on_message(message)
        except WireError as exc:
            self.on_gone()
            self.stream.reset("bad_message", str(exc))

    def on_message(self, message: JsonObject) -> None:
        """One message came."""

    def on_finish(self) -> None:
        """The host sends no more."""

    def on_gone(self) -> None:
        """The stream has ended under us."""

    def on_writable(self) -> None:
        """What was queued has gone out."""


class Hub:
    """All streams of one channel.

    Args: services: factories by service name; a factory may raise RefusedError.
    """

    def __init__(self, services: Mapping[str, Factory]) -> None:
        self.mux = Mux()
        self._services = services
        self._handlers: dict[int, Handler] = {}

    def receive(self, data: bytes) -> None:
        """Bytes came from the channel."""
        for event in self.mux.receive(data):
            self._dispatch(event)

    def _dispatch(self, event: Event) -> None:
        match event:
            case Received(stream, data):
                handler = self._handlers.get(stream)
                if handler is not None:
                    handler.on_data(data)
                else:
                    self.mux.consume(stream, len(data))
            case Opened(stream, service, params):
                self._open(stream, service, params)
            case Writable(stream):
                handler = self._handlers.get(stream)
                if handler is not None:
                    handler.on_writable()
            case Finished(stream):
                handler = self._handlers.get(stream)
                if handler is not None:
                    handler.on_finish()
            case WasReset(stream):
                self._gone(stream)
            case Resynced(ended) | Broken(ended):
                for stream in ended:
                    self._gone(stream)

    def _gone(self, stream: int) -> None:
        handler = self._handlers.pop(stream, None)
        if handler is not None:
            handler.on_gone()

    def _open(self, number: int, service: str, params: JsonObject) -> None:
        factory = self._services.get(service)
        if factory is None:
            self.mux.reset(number, "unknown_service", f"there is no service {service[:80]!r}")
            return
        try:
            self._handlers[number] = factory(Stream(self.mux, number), params)
        except RefusedError as refused:
            self.mux.reset(number, refused.code, str(refused))
