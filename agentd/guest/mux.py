"""Multiplex streams over one byte channel, guest side, without doing I/O.

Bytes go in by `receive`, which returns what happened; bytes to write are in `output`. Layout,
flow control, resynchronisation: docs/guest-protocol.md section 2. Until the first marker, and
again after a protocol error, all input is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agentd.guest import wire
from agentd.guest.wire import MARKER, JsonObject

_TAIL_BYTES = len(MARKER) - 1
_CUT = len(MARKER) // 2


@dataclass(frozen=True)
class Resynced:
    """A host connected anew: every stream in `ended` is gone."""

    ended: tuple[int, ...]


@dataclass(frozen=True)
class Broken:
    """The host broke the protocol: every stream in `ended` is gone."""

    ended: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Opened:
    """The host opened a stream for `service`."""

    stream: int
    service: str
    params: JsonObject


@dataclass(frozen=True)
class Received:
    """Bytes of a stream; hand their number to `consume` when they have been dealt with."""

    stream: int
    data: bytes


@dataclass(frozen=True)
class Finished:
    """The host sends no more on this stream; the guest still may."""

    stream: int


@dataclass(frozen=True)
class WasReset:
    """The stream is gone in both directions."""

    stream: int
    code: str


@dataclass(frozen=True)
class Writable:
    """Everything queued on the stream has been framed, and there is credit."""

    stream: int


Event = Resynced | Broken | Opened | Received | Finished | WasReset | Writable


@dataclass
class _Stream:
    send_credit: int = wire.CREDIT_BYTES
    receive_credit: int = wire.CREDIT_BYTES
    unreturned: int = 0
    pending: bytearray = field(default_factory=bytearray)
    is_closing: bool = False
    sent_close: bool = False
    got_close: bool = False


class _ProtocolError(Exception):
    pass


class Mux:
    """One channel's streams. Not thread-safe; the owner moves the bytes."""

    def __init__(self) -> None:
        self.output = bytearray()
        self._before_leaving: list[Callable[[], None]] = []
        self._streams: dict[int, _Stream] = {}
        self._last_id = 0
        self._buffer = bytearray()
        self._tail = b""
        self._is_synced = False
        self._got_hello = False

    # -- bytes in -------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the channel, in any chunking, and say what they meant."""
        events: list[Event] = []
        while True:
            joined = self._tail + data
            at = joined.find(MARKER)
            if at < 0:
                self._tail = joined[-_TAIL_BYTES:]
                self._feed(data, events)
                return events
            self._feed(joined[len(self._tail) : at], events)
            events.append(Resynced(self._drop_all()))
            self._is_synced = True
            data = joined[at + len(MARKER) :]
            self._tail = b""

    def _drop_all(self) -> tuple[int, ...]:
        ended = tuple(self._streams)
        self._streams.clear()
        self._buffer.clear()
        self.output.clear()
        self._before_leaving.clear()
        self._last_id = 0
        self._got_hello = False
        self._is_synced = False
        return ended

    def _feed(self, data: bytes, events: list[Event]) -> None:
        if not self._is_synced or not data:
            return
        self._buffer += data
        try:
            self._parse(events)
        except _ProtocolError as exc:
            events.append(Broken(self._drop_all(), str(exc)))

    def _parse(self, events: list[Event]) -> None:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= wire.HEADER_BYTES:
            magic, kind, flags, stream, size = wire.HEADER.unpack_from(buffer, at)
            if magic != wire.MAGIC or flags or size > wire.PAYLOAD_MAX_BYTES:
                raise _ProtocolError(
                    f"frame header magic={magic:#x} type={kind} flags={flags} length={size}"
                )
            end = at + wire.HEADER_BYTES + size
            if len(buffer) < end:
                break
            self._frame(kind, stream, bytes(buffer[at + wire.HEADER_BYTES : end]), events)
            at = end
        del buffer[:at]

    def _frame(self, kind: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if not self._got_hello:
            self._hello(kind, stream, payload)
        elif kind == wire.DATA:
            self._data(stream, payload, events)
        elif kind == wire.OPEN:
            self._open(stream, payload, events)
        elif kind == wire.CLOSE:
            self._close(stream, events)
        elif kind == wire.WINDOW:
            self._window(stream, payload, events)
        elif kind == wire.RESET:
            if self._streams.pop(stream, None) is not None:
                events.append(WasReset(stream, "peer"))
        else:
            raise _ProtocolError(f"frame type {kind} is not expected here")

    def _hello(self, kind: int, stream: int, payload: bytes) -> None:
        if kind != wire.HELLO or stream or len(payload) != wire.EPOCH_BYTES:
            raise _ProtocolError(f"frame type {kind} came where HELLO is due")
        self._got_hello = True
        self.output += MARKER + wire.encode_frame(wire.HELLO_ACK, 0, payload)

    def _open(self, stream: int, payload: bytes, events: list[Event]) -> None:
        if stream % 2 == 0 or stream <= self._last_id:
            raise _ProtocolError(f"OPEN of stream {stream} after {self._last_id}")
        self._last_id = stream
        try:
            params = wire.decode_json(payload)
        except wire.WireError as exc:
            raise _ProtocolError(f"OPEN of stream {stream}: {exc}") from exc
        service = params.get("service")
        if not isinstance(service, str):
            raise _ProtocolError(f"OPEN of stream {stream} names no service")
        if len(self._streams) >= wire.STREAMS_MAX:
            self._write_reset(stream, "too_many_streams", f"{wire.STREAMS_MAX} are open")
            return
        self._streams[stream] = _Stream()
        events.append(Opened(stream, service, params))

    def _data(self, stream: int, payload: bytes, events: list[Event]) -> None:
        state = self._streams.get(stream)
        if state is None:
            return
        if not payload or state.got_close:
            raise _ProtocolError(f"DATA on stream {stream} is empty or follows CLOSE")
        state.receive_credit -= len(payload)
        if state.receive_credit < 0:
            self.reset(stream, "flow_control", "more DATA than credit")
            events.append(WasReset(stream, "flow_control"))
            return
        events.append(Received(stream, payload))

    def _close(self, stream: int, events: list[Event]) -> None:
        state = self._streams.get(stream)
        if state is None or state.got_close:
            return
        state.got_close = True
        events.append(Finished(stream))
        self._forget_if_done(stream, state)

    def _window(self, stream: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != wire.LENGTH.size:
            raise _ProtocolError(f"WINDOW of {len(payload)} bytes")
        state = self._streams.get(stream)
        if state is None:
            return
        state.send_credit += wire.LENGTH.unpack(payload)[0]
        self._flush(stream, state)
        if not state.pending and not state.is_closing:
            events.append(Writable(stream))

    # -- bytes out ------------------------------------------------------------------------

    def send(self, stream: int, data: bytes) -> None:
        """Queue bytes on a stream; nothing happens when the stream is gone."""
        state = self._streams.get(stream)
        if state is None or state.is_closing:
            return
        state.pending += data
        self._flush(stream, state)

    def before_leaving(self, callback: Callable[[], None]) -> None:
        """Call once when the owner next begins to write `output`."""
        self._before_leaving.append(callback)

    def leaving(self) -> None:
        """The owner is about to write `output`."""
        callbacks, self._before_leaving = self._before_leaving, []
        for callback in callbacks:
            callback()

    def queued_bytes(self, stream: int) -> int:
        """Bytes that wait for the host's credit."""
        state = self._streams.get(stream)
        return len(state.pending) if state is not None else 0

    def consume(self, stream: int, size_bytes: int) -> None:
        """Give credit back to the host for bytes that have been dealt with."""
        state = self._streams.get(stream)
        if state is None or state.got_close:
            return
        state.unreturned += size_bytes
        if state.unreturned < wire.CREDIT_BYTES // 4:
            return
        state.receive_credit += state.unreturned
        self.output += wire.encode_frame(wire.WINDOW, stream, wire.LENGTH.pack(state.unreturned))
        state.unreturned = 0

    def close(self, stream: int) -> None:
        """Send no more on the stream, once what is queued has gone out."""
        state = self._streams.get(stream)
        if state is not None and not state.is_closing:
            state.is_closing = True
            self._flush(stream, state)

    def reset(self, stream: int, code: str, message: str) -> None:
        """End the stream in both directions at once."""
        if self._streams.pop(stream, None) is not None:
            self._write_reset(stream, code, message)

    def _write_reset(self, stream: int, code: str, message: str) -> None:
        body = wire.encode_json({"code": code, "message": message})
        self.output += wire.encode_frame(wire.RESET, stream, body)

    def _flush(self, stream: int, state: _Stream) -> None:
        pending = state.pending
        while pending and state.send_credit:
            size = min(len(pending), state.send_credit, wire.PAYLOAD_MAX_BYTES)
            frame = _encode_data(stream, pending, size)
            size = len(frame) - wire.HEADER_BYTES
            self.output += frame
            state.send_credit -= size
            del pending[:size]
        if state.is_closing and not state.sent_close and not pending:
            state.sent_close = True
            self.output += wire.encode_frame(wire.CLOSE, stream)
            self._forget_if_done(stream, state)

    def _forget_if_done(self, stream: int, state: _Stream) -> None:
        if state.sent_close and state.got_close:
            self._streams.pop(stream, None)


def _encode_data(stream: int, pending: bytearray, size: int) -> bytes:
    """A DATA frame of at most size bytes that does not contain the marker.

    The end of its length field can be the marker's beginning, so the whole frame is searched, and
    a cut changes that field, so it is searched again.
    """
    while True:
        frame = wire.encode_frame(wire.DATA, stream, bytes(pending[:size]))
        at = frame.find(MARKER)
        if at < 0:
            return frame
        size = at + _CUT - wire.HEADER_BYTES
