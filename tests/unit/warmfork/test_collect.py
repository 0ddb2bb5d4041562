"""Collecting an execution: everything in order, nothing beyond the limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentd.errors import ErrorCode, PeerError
from agentd.warmfork.execution import collect_execution
from agentd.wire import api
from agentd.wire.guest import End, ExecuteRequest, ExecutionEvent, Raised, Result, Stderr, Stdout

END = End(status="ok", execution_count=3, duration_s=0.5)


def _request(**changes: Any) -> ExecuteRequest:
    members = {"max_output_bytes": 100, "max_result_bytes": 100, **changes}
    return ExecuteRequest(execution_id="e1", code="1", timeout_s=None, **members)


async def _collect(*events: ExecutionEvent, **limits: int) -> api.Execution:
    async def source() -> AsyncIterator[ExecutionEvent]:
        for event in events:
            yield event

    return await collect_execution(_request(**limits), source())


async def test_outcome_has_every_event() -> None:
    execution = await _collect(
        Stdout(text="a"),
        Stderr(text="x"),
        Stdout(text="b"),
        Result(data={"text/html": "<i>"}, main=False),
        Result(data={"text/plain": "42", "image/png": "AAAA"}, main=True),
        Raised(name="ValueError", value="no", traceback=["l1", "l2"]),
        End(
            status="error",
            detail="ValueError",
            execution_count=3,
            duration_s=0.5,
            stderr_truncated=True,
            namespace_lost=True,
        ),
    )
    assert execution == api.Execution(
        execution_id="e1",
        status="error",
        detail="ValueError",
        stdout="ab",
        stderr="x",
        stderr_truncated=True,
        results=[
            {"data": {"text/html": "<i>"}, "main": False},
            {"data": {"text/plain": "42", "image/png": "AAAA"}, "main": True},
        ],
        text="42",
        error=api.ExecutionError(name="ValueError", value="no", traceback=["l1", "l2"]),
        execution_count=3,
        duration_s=0.5,
        namespace_lost=True,
    )


@pytest.mark.parametrize(
    ("pieces", "limit", "kept", "is_truncated"),
    [
        (["abc"], 3, "abc", False),
        (["abc", "d"], 3, "abc", True),
        (["abcd"], 3, "abc", True),
        (["aü"], 2, "a", True),
        (["ü", "ü"], 3, "ü", True),
        (["x"], 0, "", True),
        ([""], 0, "", False),
    ],
)
async def test_output_beyond_the_limit_is_cut(
    pieces: list[str], limit: int, kept: str, is_truncated: bool
) -> None:
    execution = await _collect(*(Stdout(text=text) for text in pieces), END, max_output_bytes=limit)
    assert (execution.stdout, execution.stdout_truncated) == (kept, is_truncated)
    assert not execution.stderr_truncated


async def test_results_beyond_the_limit_are_dropped_and_said() -> None:
    small, large = Result(data={"text/plain": "x" * 60}), Result(data={"text/plain": "y" * 60})
    execution = await _collect(small, large, small, END)
    assert execution.status == "result_too_large"
    assert execution.results == [{"data": small.data, "main": False}]


async def test_worse_status_is_kept_when_results_are_dropped() -> None:
    large = Result(data={"text/plain": "y" * 160})
    assert (await _collect(large, End(status="signalled"))).status == "signalled"


async def test_empty_results_without_end_are_bounded() -> None:
    execution = await _collect(*[Result(data={})] * 5000, END)
    assert execution.status == "result_too_large"
    assert len(execution.results) < 2000


async def test_execution_without_an_end_is_the_guests_fault() -> None:
    with pytest.raises(PeerError, match="no end") as info:
        await _collect(Stdout(text="a"))
    assert info.value.code is ErrorCode.GUEST_PROTOCOL
