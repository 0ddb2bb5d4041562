"""Frames: any chunking, marker anywhere, no frame with a marker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.warmfork.frames import (
    HEADER_BYTES,
    MARKER,
    PAYLOAD_MAX_BYTES,
    Frame,
    FrameCutter,
    FrameType,
    ProtocolError,
    Synchroniser,
    encode_data,
    encode_frame,
    greeting,
)

EPOCH = bytes(range(16))

# Pieces of the marker make it likely that they meet at every kind of border.
_pieces = st.one_of(
    st.binary(max_size=20),
    st.integers(1, len(MARKER)).map(lambda size: MARKER[:size]),
    st.integers(0, len(MARKER) - 1).map(lambda start: MARKER[start:]),
    st.just(MARKER),
)
_payloads = st.lists(_pieces, max_size=12).map(b"".join)


def _chunks(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    return [*chunks, data[at:]]


def _encode_all(data: bytes) -> list[bytes]:
    frames, rest = [], memoryview(data)
    while rest:
        frame, size_bytes = encode_data(1, rest)
        assert size_bytes > 0
        frames.append(frame)
        rest = rest[size_bytes:]
    return frames


def _cut(chunks: list[bytes]) -> list[Frame]:
    cutter, frames = FrameCutter(), []
    for chunk in chunks:
        cutter.feed(chunk)
        frames += cutter.take()
    return frames


@given(_payloads, st.lists(st.integers(0, 40), max_size=30))
def test_data_survives_any_chunking_with_marker_pieces_anywhere(
    data: bytes, sizes: list[int]
) -> None:
    wire = b"".join(_encode_all(data))
    assert MARKER not in wire
    frames = _cut(_chunks(wire, sizes))
    assert {frame.type for frame in frames} <= {FrameType.DATA}
    assert b"".join(frame.payload for frame in frames) == data


@pytest.mark.parametrize("size_bytes", [0xF5, 0x01F5, 0xF553], ids=hex)
def test_length_field_that_begins_a_marker_is_avoided(size_bytes: int) -> None:
    begins = 1 if size_bytes & 0xFF == 0xF5 else 2
    data = MARKER[begins:].ljust(size_bytes, b"x")
    naive = encode_frame(FrameType.DATA, 1, data)
    assert MARKER in naive, "the case does not show what it should"
    frames = _encode_all(data)
    assert MARKER not in b"".join(frames)
    assert b"".join(frame[HEADER_BYTES:] for frame in frames) == data


def test_cut_that_makes_a_new_marker_with_its_length_is_cut_again() -> None:
    # The first cut leaves 0xf5 bytes, which begin with what follows 0xf5 in the marker.
    data = MARKER[1:].ljust(0xF5 - 8, b"x") + MARKER + b"tail"
    frames = _encode_all(data)
    assert MARKER not in b"".join(frames)
    assert b"".join(frame[HEADER_BYTES:] for frame in frames) == data


def test_large_data_fills_frames() -> None:
    data = bytes(PAYLOAD_MAX_BYTES * 2 + 5)
    assert [len(frame) - HEADER_BYTES for frame in _encode_all(data)] == [
        PAYLOAD_MAX_BYTES,
        PAYLOAD_MAX_BYTES,
        5,
    ]


@given(st.binary(max_size=200), st.binary(max_size=200), st.lists(st.integers(0, 30), max_size=20))
def test_everything_before_the_own_acknowledgement_is_discarded(
    before: bytes, after: bytes, sizes: list[int]
) -> None:
    foreign = MARKER + encode_frame(FrameType.HELLO_ACK, 0, b"another-epoch-16")
    own = MARKER + encode_frame(FrameType.HELLO_ACK, 0, EPOCH)
    wire = before + foreign + MARKER[:9] + own + after
    synchroniser, rest = Synchroniser(EPOCH), None
    for chunk in _chunks(wire, sizes):
        if rest is not None:
            rest += chunk
        else:
            rest = synchroniser.feed(chunk)
    assert rest == after
    assert synchroniser.discarded_bytes == len(wire) - len(own) - len(after)


def test_synchroniser_keeps_little_while_it_waits() -> None:
    synchroniser = Synchroniser(EPOCH)
    for _ in range(100):
        assert synchroniser.feed(bytes(10_000)) is None
    assert synchroniser.discarded_bytes > 999_900


@given(st.integers(0, 60), st.lists(st.integers(0, 10), max_size=20))
def test_marker_after_synchronisation_ends_the_connection(
    size_before: int, sizes: list[int]
) -> None:
    first = encode_frame(FrameType.DATA, 1, bytes(size_before + 1))
    wire = first + first[: size_before // 2] + MARKER
    with pytest.raises(ProtocolError):
        _cut(_chunks(wire, sizes))


def test_marker_after_synchronisation_is_named() -> None:
    cutter = FrameCutter()
    cutter.feed(encode_frame(FrameType.DATA, 1, b"x") + MARKER[:5])
    with pytest.raises(ProtocolError, match="new epoch"):
        cutter.feed(MARKER[5:])


@pytest.mark.parametrize(
    "header",
    [
        b"XX\x04\x00\x00\x00\x00\x01\x00\x00\x00\x00",
        b"SF\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00",
        b"SF\x08\x00\x00\x00\x00\x01\x00\x00\x00\x00",
        b"SF\x04\x01\x00\x00\x00\x01\x00\x00\x00\x00",
        b"SF\x04\x00\x00\x00\x00\x01\x00\x01\x00\x01",
    ],
    ids=["magic", "type 0", "type 8", "flags", "length"],
)
def test_bad_header_is_a_protocol_error(header: bytes) -> None:
    cutter = FrameCutter()
    cutter.feed(header)
    with pytest.raises(ProtocolError, match="frame header"):
        cutter.take()


def test_frame_of_the_greatest_length_is_taken() -> None:
    cutter = FrameCutter()
    wire = encode_frame(FrameType.DATA, 3, b"y" * PAYLOAD_MAX_BYTES)
    cutter.feed(wire[:-1])
    assert cutter.take() == []
    cutter.feed(wire[-1:])
    assert cutter.take() == [Frame(FrameType.DATA, 3, b"y" * PAYLOAD_MAX_BYTES)]


def test_greeting_is_marker_then_hello() -> None:
    assert greeting(EPOCH) == MARKER + b"SF\x01\x00" + bytes(4) + b"\x00\x00\x00\x10" + EPOCH
