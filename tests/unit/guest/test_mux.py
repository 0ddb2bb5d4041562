"""The guest's multiplexer: chunking, markers, credit, limits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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

EPOCH = bytes(range(16))
HELLO = wire.MARKER + wire.encode_frame(wire.HELLO, 0, EPOCH)
ACK = wire.MARKER + wire.encode_frame(wire.HELLO_ACK, 0, EPOCH)


def open_frame(stream: int, service: str = "s") -> bytes:
    return wire.encode_frame(wire.OPEN, stream, json.dumps({"service": service}).encode())


def greeted() -> Mux:
    mux = Mux()
    mux.receive(HELLO)
    mux.output.clear()
    return mux


def frames(output: bytes) -> list[tuple[int, int, bytes]]:
    found, at = [], 0
    while at < len(output):
        _, kind, _, stream, size = wire.HEADER.unpack_from(output, at)
        at += wire.HEADER_BYTES
        found.append((kind, stream, bytes(output[at : at + size])))
        at += size
    return found


def merged(events: list[Event]) -> list[Event]:
    """Neighbouring Received events of a stream joined."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if (
            isinstance(event, Received)
            and isinstance(last, Received)
            and last.stream == event.stream
        ):
            joined[-1] = Received(event.stream, last.data + event.data)
        else:
            joined.append(event)
    return joined


def test_hello_is_answered_with_marker_and_the_same_epoch() -> None:
    mux = Mux()
    assert mux.receive(HELLO) == [Resynced(())]
    assert mux.output == ACK


@settings(deadline=None)
@given(garbage=st.binary(max_size=200), cut=st.integers(0, 400))
def test_garbage_before_the_first_marker_is_ignored_however_it_is_cut(
    garbage: bytes, cut: int
) -> None:
    mux = Mux()
    data = garbage + HELLO
    events = mux.receive(data[:cut]) + mux.receive(data[cut:])
    assert Resynced(()) in events
    assert mux.output == ACK


@settings(deadline=None)
@given(
    payloads=st.lists(st.binary(min_size=1, max_size=300), max_size=5),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
)
def test_any_chunking_of_the_same_bytes_means_the_same(
    payloads: list[bytes], cuts: list[int]
) -> None:
    stream = (
        HELLO
        + open_frame(1)
        + b"".join(wire.encode_frame(wire.DATA, 1, payload) for payload in payloads)
        + wire.encode_frame(wire.CLOSE, 1)
    )
    if stream.count(wire.MARKER) != 1:
        return
    whole = Mux().receive(stream)
    mux, events, at = Mux(), [], 0
    for cut in [*sorted(cuts), len(stream)]:
        events += mux.receive(stream[at : max(at, cut)])
        at = max(at, cut)
    assert events == whole
    assert events[-1] == Finished(1)


@settings(deadline=None)
@given(half=st.integers(0, 40), cuts=st.lists(st.integers(0, 120), max_size=6))
def test_a_host_that_dies_in_a_frame_is_followed_by_one_that_is_understood(
    half: int, cuts: list[int]
) -> None:
    broken = wire.encode_frame(wire.DATA, 1, b"x" * 100)[:half]
    stream = broken + HELLO + open_frame(1, "again")
    mux = Mux()
    mux.receive(HELLO + open_frame(1))
    events: list[Event] = []
    at = 0
    for cut in [*sorted(cuts), len(stream)]:
        events += mux.receive(stream[at : max(at, cut)])
        at = max(at, cut)
    # Cut inside the marker, its first bytes may already be a wrong header: then that ends all.
    ends = [event for event in events if isinstance(event, Resynced | Broken)]
    assert [stream for event in ends for stream in event.ended] == [1]
    assert isinstance(ends[-1], Resynced)
    assert events[-1] == Opened(1, "again", {"service": "again"})


def test_output_for_the_former_host_is_dropped_by_a_new_marker() -> None:
    mux = greeted()
    mux.receive(open_frame(1))
    mux.send(1, b"late")
    mux.receive(HELLO)
    assert mux.output == ACK


def test_whoever_asked_is_told_once_that_the_output_leaves() -> None:
    told: list[str] = []
    mux = greeted()
    mux.before_leaving(lambda: told.append("first"))
    assert told == []
    mux.leaving()
    mux.leaving()
    assert told == ["first"]


def test_nobody_is_told_of_output_that_a_new_marker_dropped() -> None:
    told: list[str] = []
    mux = greeted()
    mux.before_leaving(lambda: told.append("dropped"))
    mux.receive(wire.MARKER)
    mux.leaving()
    assert told == []


@settings(deadline=None)
@given(before=st.binary(max_size=50), after=st.binary(max_size=50), copies=st.integers(1, 3))
def test_the_marker_never_appears_inside_what_is_sent(
    before: bytes, after: bytes, copies: int
) -> None:
    mux = greeted()
    mux.receive(open_frame(1))
    payload = before + wire.MARKER * copies + after
    mux.send(1, payload)
    assert wire.MARKER not in mux.output
    assert b"".join(data for _, _, data in frames(mux.output)) == payload


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"XX" + bytes(10), id="wrong-magic"),
        pytest.param(wire.HEADER.pack(wire.MAGIC, 9, 0, 1, 0), id="unknown-type"),
        pytest.param(wire.HEADER.pack(wire.MAGIC, wire.DATA, 1, 1, 0), id="flags"),
        pytest.param(wire.HEADER.pack(wire.MAGIC, wire.DATA, 0, 1, 65537), id="too-long"),
        pytest.param(wire.encode_frame(wire.HELLO, 0, EPOCH), id="second-hello"),
        pytest.param(open_frame(2), id="even-id"),
        pytest.param(open_frame(1), id="id-used-again"),
        pytest.param(wire.encode_frame(wire.OPEN, 3, b"{"), id="open-not-json"),
        pytest.param(wire.encode_frame(wire.OPEN, 3, b"{}"), id="open-without-service"),
        pytest.param(wire.encode_frame(wire.DATA, 1), id="empty-data"),
        pytest.param(wire.encode_frame(wire.WINDOW, 1, b"xx"), id="short-window"),
    ],
)
def test_a_protocol_error_ends_all_streams_until_the_next_marker(frame: bytes) -> None:
    mux = greeted()
    mux.receive(open_frame(1))
    (event,) = mux.receive(frame)
    assert isinstance(event, Broken)
    assert event.ended == (1,)
    assert mux.receive(open_frame(5)) == []
    assert mux.receive(HELLO + open_frame(1)) == [
        Resynced(()),
        Opened(1, "s", {"service": "s"}),
    ]


def test_a_frame_before_hello_is_a_protocol_error() -> None:
    events = Mux().receive(wire.MARKER + open_frame(1))
    assert isinstance(events[1], Broken)


def test_a_sender_stops_at_its_credit_and_goes_on_with_a_window() -> None:
    mux = greeted()
    mux.receive(open_frame(1))
    mux.send(1, b"x" * (wire.CREDIT_BYTES + 10))
    mux.close(1)
    sent = frames(mux.output)
    assert sum(len(data) for _, _, data in sent) == wire.CREDIT_BYTES
    assert mux.queued_bytes(1) == 10
    mux.output.clear()
    mux.receive(wire.encode_frame(wire.WINDOW, 1, wire.LENGTH.pack(100)))
    assert frames(mux.output) == [(wire.DATA, 1, b"x" * 10), (wire.CLOSE, 1, b"")]


def test_a_window_says_that_the_stream_is_writable_once_nothing_waits() -> None:
    mux = greeted()
    mux.receive(open_frame(1))
    mux.send(1, b"x" * (wire.CREDIT_BYTES + 10))
    assert mux.receive(wire.encode_frame(wire.WINDOW, 1, wire.LENGTH.pack(5))) == []
    assert mux.receive(wire.encode_frame(wire.WINDOW, 1, wire.LENGTH.pack(50))) == [Writable(1)]


def test_credit_goes_back_only_for_what_has_been_consumed() -> None:
    mux = greeted()
    mux.receive(open_frame(1))
    block = wire.encode_frame(wire.DATA, 1, b"x" * 65536)
    for _ in range(4):
        mux.receive(block)
    assert mux.output == b""
    mux.consume(1, 65536)
    assert frames(mux.output) == [(wire.WINDOW, 1, wire.LENGTH.pack(65536))]


def test_more_data_than_credit_resets_the_stream() -> None:
    mux = greeted()
    mux.receive(open_frame(1))
    block = wire.encode_frame(wire.DATA, 1, b"x" * 65536)
    for _ in range(4):
        mux.receive(block)
    assert mux.receive(wire.encode_frame(wire.DATA, 1, b"y")) == [WasReset(1, "flow_control")]
    ((kind, _, body),) = frames(mux.output)
    assert (kind, json.loads(body)["code"]) == (wire.RESET, "flow_control")


def test_one_stream_too_many_is_reset() -> None:
    mux = greeted()
    for number in range(wire.STREAMS_MAX):
        mux.receive(open_frame(2 * number + 1))
    assert mux.receive(open_frame(2 * wire.STREAMS_MAX + 1)) == []
    ((kind, stream, body),) = frames(mux.output)
    assert (kind, stream) == (wire.RESET, 2 * wire.STREAMS_MAX + 1)
    assert json.loads(body)["code"] == "too_many_streams"


def test_late_frames_of_a_stream_that_is_gone_are_dropped() -> None:
    mux = greeted()
    mux.receive(open_frame(1))
    mux.close(1)
    mux.receive(wire.encode_frame(wire.CLOSE, 1))
    assert mux.receive(wire.encode_frame(wire.DATA, 1, b"late")) == []
    assert mux.receive(wire.encode_frame(wire.RESET, 1, b"{}")) == []
