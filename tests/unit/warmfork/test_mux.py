"""Streams' state: credit, half-close, reset, what a guest may not do."""

from __future__ import annotations

import struct

import pytest

from agentd.warmfork.frames import (
    CREDIT_BYTES,
    PAYLOAD_MAX_BYTES,
    STREAMS_MAX,
    FrameType,
    ProtocolError,
    encode_frame,
    encode_window,
)
from agentd.warmfork.mux import Credited, Finished, HostMux, Received, WasReset

PARAMS = b'{"service":"status"}'
FULL = bytes(PAYLOAD_MAX_BYTES)


def _data(stream: int, payload: bytes = b"x") -> bytes:
    return encode_frame(FrameType.DATA, stream, payload)


def _open(mux: HostMux) -> int:
    return mux.open(PARAMS)[0]


def test_ids_are_odd_and_rise() -> None:
    mux = HostMux()
    assert [_open(mux) for _ in range(3)] == [1, 3, 5]
    assert _open(HostMux(7)) == 7


@pytest.mark.parametrize("first", [0, 2, -1])
def test_first_id_has_to_be_odd(first: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        HostMux(first)


def test_frames_become_events() -> None:
    mux = HostMux()
    stream = _open(mux)
    mux.send(stream, memoryview(b"abc"))
    wire = _data(stream, b"hi") + encode_window(stream, 3) + encode_frame(FrameType.CLOSE, stream)
    assert mux.receive(wire) == [Received(stream, b"hi"), Credited(stream), Finished(stream)]
    assert mux.is_live(stream)
    assert mux.close(stream) == encode_frame(FrameType.CLOSE, stream)
    assert mux.close(stream) == b""
    assert not mux.is_live(stream)


def test_reset_of_the_guest_ends_the_stream() -> None:
    mux = HostMux()
    stream = _open(mux)
    reset = encode_frame(FrameType.RESET, stream, b'{"code":"gate_closed","message":"m","x":1}')
    assert mux.receive(reset) == [WasReset(stream, "gate_closed", "m")]
    assert not mux.is_live(stream)
    assert mux.receive(reset) == []
    assert mux.reset(stream, "c", "m") == b""


def test_sending_stops_without_credit() -> None:
    mux = HostMux()
    stream = _open(mux)
    rest, sent = memoryview(bytes(CREDIT_BYTES + 10)), 0
    while True:
        frame, size_bytes = mux.send(stream, rest)
        if not size_bytes:
            break
        assert len(frame) == 12 + size_bytes
        sent += size_bytes
        rest = rest[size_bytes:]
    assert (sent, frame) == (CREDIT_BYTES, b"")
    mux.receive(encode_window(stream, 4))
    assert mux.send(stream, rest)[1] == 4


def test_credit_goes_back_only_for_what_was_consumed() -> None:
    mux = HostMux()
    stream = _open(mux)
    for _ in range(4):
        mux.receive(_data(stream, FULL))
    with pytest.raises(ProtocolError, match="exceeds the credit"):
        mux.receive(_data(stream))
    mux = HostMux()
    stream = _open(mux)
    for _ in range(4):
        mux.receive(_data(stream, FULL))
    assert mux.consumed(stream, 10) == b""
    returned = mux.consumed(stream, PAYLOAD_MAX_BYTES - 10)
    assert returned == encode_window(stream, PAYLOAD_MAX_BYTES)
    assert mux.receive(_data(stream, FULL)) == [Received(stream, FULL)]


def test_no_credit_goes_back_to_a_guest_that_closed() -> None:
    mux = HostMux()
    stream = _open(mux)
    mux.receive(_data(stream, FULL) + encode_frame(FrameType.CLOSE, stream))
    assert mux.consumed(stream, PAYLOAD_MAX_BYTES) == b""


def test_late_frames_of_an_ended_stream_are_dropped_within_its_credit() -> None:
    mux = HostMux()
    stream = _open(mux)
    mux.receive(_data(stream, FULL))
    assert mux.reset(stream, "cancelled", "")
    late = _data(stream, FULL) * 3 + encode_frame(FrameType.CLOSE, stream)
    assert mux.receive(late + encode_window(stream, 5)) == []
    with pytest.raises(ProtocolError, match="flood"):
        mux.receive(_data(stream))


def test_guest_that_closed_has_no_late_credit() -> None:
    mux = HostMux()
    stream = _open(mux)
    mux.receive(encode_frame(FrameType.CLOSE, stream))
    mux.reset(stream, "cancelled", "")
    with pytest.raises(ProtocolError, match="flood"):
        mux.receive(_data(stream))


def test_streams_before_a_takeover_may_still_trickle() -> None:
    mux = HostMux(3)
    assert mux.receive(_data(1, b"late") + encode_frame(FrameType.CLOSE, 1)) == []


def test_full_mux_refuses_more() -> None:
    mux = HostMux()
    streams = [_open(mux) for _ in range(STREAMS_MAX)]
    assert mux.is_full
    with pytest.raises(ValueError, match="check"):
        mux.open(PARAMS)
    mux.reset(streams[7], "cancelled", "")
    assert not mux.is_full


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        (_data(3), "never opened"),
        (_data(2), "never opened"),
        (encode_frame(FrameType.HELLO_ACK, 0, bytes(16)), "never opened"),
        (encode_frame(FrameType.HELLO_ACK, 1, bytes(16)), "HELLO_ACK from a guest"),
        (encode_frame(FrameType.OPEN, 1, PARAMS), "OPEN from a guest"),
        (_data(1, b""), "empty"),
        (encode_frame(FrameType.CLOSE, 1) + _data(1), "follows CLOSE"),
        (encode_frame(FrameType.CLOSE, 1) * 2, "twice"),
        (encode_frame(FrameType.CLOSE, 1, b"x"), "payload"),
        (encode_frame(FrameType.WINDOW, 1, b"xyz"), "has 3 bytes"),
        (encode_window(1, 1), "unspent"),
        (encode_window(1, 0), "unspent"),
        (encode_frame(FrameType.RESET, 1, b"nonsense"), "RESET of stream 1"),
        (encode_frame(FrameType.RESET, 1, b'{"code":7}'), "RESET of stream 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_guest_that_breaks_the_protocol_is_named(wire: bytes, problem: str) -> None:
    mux = HostMux()
    _open(mux)
    with pytest.raises(ProtocolError, match=problem):
        mux.receive(wire)


def test_window_wraps_nowhere() -> None:
    mux = HostMux()
    stream = _open(mux)
    mux.send(stream, memoryview(b"abc"))
    with pytest.raises(ProtocolError, match="unspent"):
        mux.receive(encode_frame(FrameType.WINDOW, stream, struct.pack(">I", 2**32 - 1)))
