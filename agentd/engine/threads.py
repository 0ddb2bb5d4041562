"""Run blocking calls that can be stopped in threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(
    work: Callable[[int], T],
    discard: Callable[[T], None] | None = None,
    *,
    pool: Executor | None = None,
) -> T:
    """Run work in a thread.

    Args: work: gets an eventfd (eventfd(2)) that becomes readable when it shall stop. discard:
    releases a result that came although it was asked to stop. pool: of threads, None for the event
    loop's own.
    Cancellation: asks the work to stop, waits until it did, then passes the cancellation on; work
    that still waits for its thread never begins.
    """
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    queued = None if pool is None else pool.submit(work, fd)
    task: asyncio.Future[T] = asyncio.ensure_future(
        asyncio.to_thread(work, fd) if queued is None else asyncio.wrap_future(queued)
    )
    cancelled = False
    try:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                cancelled = True
                os.eventfd_write(fd, 1)
                if queued is not None:
                    queued.cancel()
    finally:
        os.close(fd)
    if not cancelled:
        return task.result()
    if not task.cancelled() and task.exception() is None and discard is not None:
        discard(task.result())
    raise asyncio.CancelledError
