"""Blocking work in threads stops when its caller is cancelled."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentd.engine.threads import in_thread


def wait_to_be_stopped(cancel_fd: int) -> str:
    select.select([cancel_fd], [], [])
    return "stopped"


async def test_the_result_or_the_failure_of_the_work_arrives() -> None:
    assert await in_thread(lambda _fd: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda _fd: 1 // 0)


@pytest.mark.parametrize("has_pool", [False, True], ids=["loops_own", "pool"])
async def test_a_cancelled_caller_leaves_no_result_behind(has_pool: bool) -> None:
    discarded: list[str] = []
    begun = threading.Event()

    def work(cancel_fd: int) -> str:
        begun.set()
        return wait_to_be_stopped(cancel_fd)

    with ThreadPoolExecutor(1) as pool:
        task = asyncio.create_task(
            in_thread(work, discarded.append, pool=pool if has_pool else None)
        )
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert discarded == ["stopped"]


async def test_work_that_waits_for_its_thread_never_begins_once_cancelled() -> None:
    release = threading.Event()
    begun: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(release.wait)
        task = asyncio.create_task(in_thread(begun.append, pool=pool))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not busy.done()
        release.set()
    assert begun == []


async def test_work_that_fails_while_it_is_stopped_is_cancelled_all_the_same() -> None:
    begun = threading.Event()

    def work(cancel_fd: int) -> None:
        begun.set()
        wait_to_be_stopped(cancel_fd)
        raise OSError(os.strerror(5))

    task = asyncio.create_task(in_thread(work, lambda _result: pytest.fail("there is none")))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
