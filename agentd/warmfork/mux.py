"""Keep the state of a channel's streams on the host side, without doing I/O.

Bytes go in by `receive`, which says what they meant; every other call returns the bytes to write.
Flow control bounds what a guest can make the host keep: CREDIT_BYTES per stream. The guest may
not exceed it, nor send on a stream that never was, nor more on an ended stream than it had
credit left (`_late_bytes`), so a flood is noticed without remembering ended streams.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from agentd.warmfork.frames import (
    CREDIT_BYTES,
    PAYLOAD_MAX_BYTES,
    STREAMS_MAX,
    Frame,
    FrameCutter,
    FrameType,
    ProtocolError,
    decode_window,
    encode_data,
    encode_frame,
    encode_window,
)
from agentd.wire.guest import Reset, decode


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes of a stream; tell `consumed` once they have been dealt with."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The guest sends no more on this stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class WasReset:
    """The guest ended the stream in both directions."""

    stream: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Credited:
    """The stream may send again."""

    stream: int


Event = Received | Finished | WasReset | Credited


@dataclass(slots=True)
class _State:
    send_credit: int = CREDIT_BYTES
    receive_credit: int = CREDIT_BYTES
    unreturned: int = 0
    sent_close: bool = False
    got_close: bool = False


class HostMux:
    """The streams of one synchronised connection.

    Args: next_stream: the first unused id, odd; lower ids belong to streams that have ended.
    """

    def __init__(self, next_stream: int = 1) -> None:
        if next_stream < 1 or next_stream % 2 == 0:
            raise ValueError(f"stream ids of the host are odd, not {next_stream}")
        self._next_id = next_stream
        self._live: dict[int, _State] = {}
        self._late_bytes = (next_stream // 2) * CREDIT_BYTES
        self._cutter = FrameCutter()

    @property
    def is_full(self) -> bool:
        """One more stream would be refused."""
        return len(self._live) >= STREAMS_MAX

    def is_live(self, stream: int) -> bool:
        """False once both sides closed the stream or either reset it."""
        return stream in self._live

    # -- bytes in -------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the guest, in any chunking, and say what they meant.

        Raises: ProtocolError when the guest broke the protocol; the connection is then over.
        """
        self._cutter.feed(data)
        events: list[Event] = []
        for frame in self._cutter.take():
            event = self._frame(frame)
            if event is not None:
                events.append(event)
        return events

    def _frame(self, frame: Frame) -> Event | None:
        stream = frame.stream
        if stream % 2 == 0 or stream >= self._next_id:
            raise ProtocolError(f"{frame.type.name} on stream {stream}, which was never opened")
        if frame.type is FrameType.DATA:
            return self._data(stream, frame.payload)
        if frame.type is FrameType.WINDOW:
            return self._window(stream, decode_window(frame))
        if frame.type is FrameType.CLOSE:
            return self._close(stream, frame.payload)
        if frame.type is FrameType.RESET:
            return self._reset(stream, frame.payload)
        raise ProtocolError(f"{frame.type.name} from a guest on stream {stream}")

    def _data(self, stream: int, payload: bytes) -> Event | None:
        state = self._live.get(stream)
        if state is None:
            self._late_bytes -= len(payload)
            if self._late_bytes < 0:
                raise ProtocolError(f"a flood of DATA on ended streams, last on {stream}")
            return None
        if not payload or state.got_close:
            raise ProtocolError(f"DATA on stream {stream} is empty or follows CLOSE")
        state.receive_credit -= len(payload)
        if state.receive_credit < 0:
            raise ProtocolError(f"DATA on stream {stream} exceeds the credit")
        return Received(stream, payload)

    def _window(self, stream: int, credit_bytes: int) -> Event | None:
        state = self._live.get(stream)
        if state is None or state.sent_close:
            return None
        state.send_credit += credit_bytes
        if credit_bytes == 0 or state.send_credit > CREDIT_BYTES:
            raise ProtocolError(f"WINDOW of stream {stream} returns {credit_bytes} unspent bytes")
        return Credited(stream)

    def _close(self, stream: int, payload: bytes) -> Event | None:
        state = self._live.get(stream)
        if payload or (state is not None and state.got_close):
            raise ProtocolError(f"CLOSE on stream {stream} has a payload or comes twice")
        if state is None:
            return None
        state.got_close = True
        self._forget_if_done(stream, state)
        return Finished(stream)

    def _reset(self, stream: int, payload: bytes) -> Event | None:
        try:
            reset = decode(payload, Reset)
        except ValueError as exc:
            raise ProtocolError(f"RESET of stream {stream}: {exc}") from exc
        if self._live.pop(stream, None) is None:
            return None
        return WasReset(stream, reset.code, reset.message)

    # -- bytes out ------------------------------------------------------------------------

    def open(self, params: bytes) -> tuple[int, bytes]:
        """A new stream's id, and its OPEN frame; only when not `is_full`.

        Args: params: the JSON object, at most PAYLOAD_MAX_BYTES.
        """
        if self.is_full or len(params) > PAYLOAD_MAX_BYTES:
            raise ValueError("the caller has to check the number of streams and the size first")
        stream = self._next_id
        self._next_id += 2
        self._live[stream] = _State()
        return stream, encode_frame(FrameType.OPEN, stream, params)

    def send(self, stream: int, data: memoryview) -> tuple[bytes, int]:
        """One DATA frame with as much of `data` as fits, and how many bytes that is.

        (b"", 0) while the guest has given no credit. The stream has to be live and not closed.
        """
        state = self._live[stream]
        if not state.send_credit or not data:
            return b"", 0
        frame, size_bytes = encode_data(stream, data[: state.send_credit])
        state.send_credit -= size_bytes
        return frame, size_bytes

    def consumed(self, stream: int, size_bytes: int) -> bytes:
        """Bytes of the stream have been dealt with; credit goes back in larger pieces."""
        state = self._live.get(stream)
        if state is None or state.got_close:
            return b""
        state.unreturned += size_bytes
        if state.unreturned < CREDIT_BYTES // 4:
            return b""
        credit_bytes, state.unreturned = state.unreturned, 0
        state.receive_credit += credit_bytes
        return encode_window(stream, credit_bytes)

    def close(self, stream: int) -> bytes:
        """The host sends no more on the stream; idempotent."""
        state = self._live.get(stream)
        if state is None or state.sent_close:
            return b""
        state.sent_close = True
        self._forget_if_done(stream, state)
        return encode_frame(FrameType.CLOSE, stream)

    def reset(self, stream: int, code: str, message: str) -> bytes:
        """End the stream in both directions; idempotent."""
        state = self._live.pop(stream, None)
        if state is None:
            return b""
        if not state.got_close:
            self._late_bytes += state.receive_credit
        body = msgspec.json.encode(Reset(code=code, message=message))
        return encode_frame(FrameType.RESET, stream, body)

    def _forget_if_done(self, stream: int, state: _State) -> None:
        if state.sent_close and state.got_close:
            del self._live[stream]
