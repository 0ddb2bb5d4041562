"""The collector of events, fed by hand."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.client.execution import Collector, Execution, Result
from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError

EVENTS = (
    b'{"type":"stdout","text":"a\\nb"}\n\n{"type":"result","data":{"text/plain":"1"},"main":true,'
    b'"new":0}\n{"type":"end","status":"ok","detail":"","execution_count":2,"duration_s":0.5,'
    b'"stdout_truncated":false,"stderr_truncated":false}\n'
)


def collect(*pieces: bytes) -> Execution:
    collector = Collector("run")
    for piece in pieces:
        list(collector.feed(piece))
    return collector.finish("/sock")


@given(st.lists(st.integers(0, len(EVENTS)), max_size=8))
def test_the_cuts_between_pieces_do_not_matter(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(EVENTS)]
    pieces = [EVENTS[a:b] for a, b in pairwise(edges)]
    assert collect(*pieces) == collect(EVENTS)


@given(st.binary(max_size=80))
def test_no_bytes_make_it_fail_otherwise_than_with_our_errors(noise: bytes) -> None:
    with pytest.raises(SnapStartError):
        collect(noise + b"\n")


def test_an_event_after_the_end_is_refused() -> None:
    with pytest.raises(PeerError) as info:
        collect(EVENTS, b'{"type":"stdout","text":"late"}\n')
    assert info.value.code is ErrorCode.GUEST_PROTOCOL


def test_an_error_object_in_the_stream_is_that_error() -> None:
    with pytest.raises(TransientError, match="bye"):
        collect(json.dumps({"error": {"code": "shutting_down", "message": "bye"}}).encode() + b"\n")


def test_a_result_gives_its_forms() -> None:
    forms = {
        "text/plain": "t", "text/html": "h", "text/markdown": "m", "image/svg+xml": "s",
        "image/png": "p", "image/jpeg": "j", "application/json": {"a": 1},
    }  # fmt: skip
    one = Result(forms, is_main_result=True)
    assert (one.text, one.html, one.markdown, one.svg, one.png, one.jpeg) == tuple("thmspj")
    assert one.json == {"a": 1}
    assert one.formats() == list(forms)


def test_only_the_main_result_is_the_text() -> None:
    execution = Execution(results=[Result({"text/plain": "shown"})])
    assert execution.text is None
