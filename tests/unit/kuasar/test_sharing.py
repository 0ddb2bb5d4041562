"""One run for many who ask."""

from __future__ import annotations

import asyncio

import pytest

from agentd.kuasar.sharing import Fresh


class Work:
    """Runs that end when they are let go; each returns its number."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended: list[str] = []
        self.go = asyncio.Semaphore(0)
        self.failures: list[Exception] = []

    async def run(self) -> int:
        self.begun += 1
        number = self.begun
        try:
            await self.go.acquire()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        if self.failures:
            raise self.failures.pop()
        return number


async def turn() -> None:
    """Let everybody do what can be done now."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_all_who_ask_before_it_begins_share_one_run() -> None:
    work = Work()
    fresh = Fresh(work.run)
    asking = [asyncio.create_task(fresh.get()) for _ in range(64)]
    await turn()
    work.go.release()
    assert await asyncio.gather(*asking) == [1] * 64


async def test_who_asks_while_one_runs_gets_the_outcome_of_a_later_one() -> None:
    work = Work()
    fresh = Fresh(work.run)
    first = asyncio.create_task(fresh.get())
    await turn()
    later = [asyncio.create_task(fresh.get()) for _ in range(3)]
    await turn()
    assert work.begun == 1
    work.go.release()
    await turn()
    work.go.release()
    assert await first == 1
    assert await asyncio.gather(*later) == [2, 2, 2]


async def test_a_failure_is_that_of_all_who_shared_it_and_of_nobody_later() -> None:
    work = Work()
    work.failures = [OSError("once")]
    fresh = Fresh(work.run)
    asking = [asyncio.create_task(fresh.get()) for _ in range(2)]
    await turn()
    work.go.release()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in outcomes] == [OSError, OSError]
    work.go.release()
    assert await fresh.get() == 2


async def test_a_run_ends_with_the_last_who_wants_it() -> None:
    work = Work()
    fresh = Fresh(work.run)
    one, other = (asyncio.create_task(fresh.get()) for _ in range(2))
    await turn()
    one.cancel()
    await turn()
    assert work.ended == []
    other.cancel()
    await turn()
    assert work.ended == ["cancelled"]
    work.go.release()
    assert await fresh.get() == 2


async def test_one_that_waits_its_turn_is_given_up_without_being_run() -> None:
    work = Work()
    fresh = Fresh(work.run)
    first = asyncio.create_task(fresh.get())
    await turn()
    waiting = asyncio.create_task(fresh.get())
    await turn()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    work.go.release()
    assert await first == 1
    await turn()
    assert work.begun == 1
