"""Workers reconcile every key, survive failures, end when told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from random import Random

import pytest

from controlplane.errors import UnavailableError
from controlplane.kube.backoff import Backoff
from controlplane.kube.workers import WorkQueue, run_workers


def _queue() -> WorkQueue[str]:
    return WorkQueue(backoff=Backoff(base_s=0.0, cap_s=0.0), random=Random(1))


@asynccontextmanager
async def _running(
    queue: WorkQueue[str],
    reconcile: Callable[[str], Awaitable[float | None]],
    failures: list[tuple[str, Exception]] | None = None,
) -> AsyncIterator[asyncio.Task[None]]:
    def note(key: str, exc: Exception) -> None:
        (failures if failures is not None else []).append((key, exc))

    workers = asyncio.create_task(run_workers(queue, reconcile, 3, name="test", on_failure=note))
    try:
        yield workers
    finally:
        workers.cancel()
        with suppress(asyncio.CancelledError):
            await workers


async def test_no_key_is_worked_on_by_two_at_once() -> None:
    queue, active, counts = _queue(), set[str](), dict[str, int]()
    finished = asyncio.Event()

    async def reconcile(key: str) -> None:
        assert key not in active
        active.add(key)
        await asyncio.sleep(0)
        active.discard(key)
        counts[key] = counts.get(key, 0) + 1
        if counts[key] < 20:
            queue.add(key)
        elif all(counts.get(k, 0) >= 20 for k in "abcde"):
            finished.set()

    for key in "abcde":
        queue.add(key)
    async with _running(queue, reconcile):
        await finished.wait()


async def test_a_failure_brings_the_key_back() -> None:
    queue, finished = _queue(), asyncio.Event()
    failures: list[tuple[str, Exception]] = []

    async def reconcile(key: str) -> None:
        if len(failures) < 2:
            raise UnavailableError("away") if failures else ZeroDivisionError
        finished.set()

    queue.add("a")
    async with _running(queue, reconcile, failures):
        await finished.wait()
    assert [type(exc) for _, exc in failures] == [ZeroDivisionError, UnavailableError]


async def test_a_returned_delay_brings_the_key_back() -> None:
    queue, finished, times = _queue(), asyncio.Event(), list[str]()

    async def reconcile(key: str) -> float | None:
        times.append(key)
        if len(times) == 3:
            finished.set()
            return None
        return 0.001

    queue.add_after("a", 0.001)
    async with _running(queue, reconcile):
        await finished.wait()


async def test_cancelled_work_is_waited_for_and_its_key_kept() -> None:
    queue, started, ended = _queue(), asyncio.Event(), list[str]()

    async def reconcile(key: str) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(key)

    queue.add("a")
    async with _running(queue, reconcile):
        await started.wait()
    assert ended == ["a"]
    assert await queue.take() == "a"


async def test_waiting_for_a_key_can_be_cancelled_without_losing_one() -> None:
    queue = _queue()
    waiter = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    waiter.cancel()
    queue.add("a")
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert await queue.take() == "a"
    assert len(queue) == 0
