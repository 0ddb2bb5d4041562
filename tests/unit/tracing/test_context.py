"""What a traceparent names."""

from __future__ import annotations

import asyncio

import pytest

from agentd.tracing import TraceContext, current, enter, new_context, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_header_is_read_and_written_alike() -> None:
    text = f"00-{TRACE}-{SPAN}-01"
    found = parse_traceparent(text)
    assert found == TraceContext(TRACE, SPAN)
    assert found is not None
    assert found.traceparent == text


def test_a_later_version_may_say_more() -> None:
    assert parse_traceparent(f"cc-{TRACE}-{SPAN}-01-what") == TraceContext(TRACE, SPAN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 55,
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-what",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
    ids=[
        "empty", "noise", "version ff", "longer", "zero trace", "zero span", "capitals", "new line",
    ],
)  # fmt: skip
def test_what_is_no_traceparent_is_followed_by_nobody(text: str) -> None:
    assert parse_traceparent(text) is None


def test_a_child_is_in_its_parents_trace_and_as_sampled() -> None:
    child = new_context(TraceContext(TRACE, SPAN, is_sampled=False))
    assert (child.trace_id, child.is_sampled) == (TRACE, False)
    assert child.span_id != SPAN
    assert child.traceparent.endswith("-00")


async def test_a_task_takes_over_the_trace_and_keeps_its_own_to_itself() -> None:
    async def work() -> TraceContext | None:
        enter(f"00-{TRACE}-{SPAN}-01")
        inner = asyncio.create_task(asyncio.sleep(0, current()))
        return await inner

    assert await asyncio.create_task(work()) == TraceContext(TRACE, SPAN)
    assert current() is None
