"""Background work has an owner, cleanup is not interrupted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentd.engine.tasks import Tasks, uninterrupted
from agentd.engine.threads import in_thread


class Steps:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def step(self, event: str, /, **details: str | int | float) -> None:
        self.seen.append((event, details))


async def test_cleanup_runs_to_its_end_however_often_it_is_cancelled() -> None:
    gate, done = asyncio.Event(), list[str]()

    async def clean() -> None:
        await gate.wait()
        done.append("cleaned")

    task = asyncio.create_task(uninterrupted(clean()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["cleaned"]


async def test_an_error_in_a_task_is_reported_with_its_name() -> None:
    steps = Steps()
    tasks = Tasks(steps)

    async def fail() -> None:
        raise ValueError("no")

    tasks.start("worker", fail())
    await tasks.drain(1.0)
    await asyncio.sleep(0)
    assert steps.seen == [("task.failed", {"task": "worker", "error": "ValueError('no')"})]


async def test_an_eternal_task_that_ends_is_reported() -> None:
    steps = Steps()
    tasks = Tasks(steps)

    async def end() -> None:
        return

    tasks.start("watch", end(), eternal=True)
    await tasks.drain(1.0)
    await asyncio.sleep(0)
    assert steps.seen == [("task.ended_early", {"task": "watch"})]


async def test_stopping_reports_what_does_not_end() -> None:
    steps = Steps()
    tasks = Tasks(steps)
    gate = asyncio.Event()

    async def stubborn() -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    task = tasks.start("stubborn", stubborn())
    await asyncio.sleep(0)
    assert not await tasks.stop(0.01)
    assert steps.seen[0][0] == "task.stop.failed"
    gate.set()
    await task


async def test_a_cancelled_thread_is_told_to_stop_and_its_result_is_released() -> None:
    import select

    released = list[str]()

    def work(fd: int) -> str:
        select.select([fd], [], [])
        return "result"

    task = asyncio.create_task(in_thread(work, released.append))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert released == ["result"]
