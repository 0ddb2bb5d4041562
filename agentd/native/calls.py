"""Bound a blocking call of the C core by a deadline, by cancellation."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from agentd.errors import ErrorCode, PermanentError, SnapStartError, TransientError
from agentd.units import NS_PER_S

T = TypeVar("T")

NEVER_NS = 2**63 - 1
"""A deadline that does not come."""


class CallCancelledError(Exception):
    """The call was ended through its `cancel_fd`."""


def deadline_after(seconds: float) -> int:
    """Return the deadline that many seconds from now; infinity is none."""
    if math.isinf(seconds):
        return NEVER_NS
    return time.monotonic_ns() + int(seconds * NS_PER_S)


async def run(
    call: Callable[[int], T],
    *,
    discard: Callable[[T], None] | None = None,
    pool: Executor | None = None,
) -> T:
    """Run a blocking call of this module in a thread.

    Args: call: gets the `cancel_fd` to pass on. discard: releases a result that came although the
    caller was cancelled. pool: of threads, None for the event loop's own.
    Cancellation: tells the call, waits until it has cleaned up, then raises CancelledError.
    """
    cancel_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        work = asyncio.get_running_loop().run_in_executor(pool, call, cancel_fd)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            os.eventfd_write(cancel_fd, 1)
            await _wait_for_end(work)
            has_result = not work.cancelled() and work.exception() is None
            if has_result and discard is not None:
                discard(work.result())
            raise
    finally:
        os.close(cancel_fd)


async def _wait_for_end(work: asyncio.Future[T]) -> None:
    """Wait for a call that was told to stop, however often we are cancelled meanwhile."""
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            continue


def system_error(code: int, what: str) -> SnapStartError:
    """Translate the errno of a system call of ours."""
    if code == errno.ENOMEM:
        return TransientError(ErrorCode.NO_MEMORY, what, hint="end sessions or add memory")
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TransientError(ErrorCode.DISK_FULL, what, hint="free space or remove templates")
    if code in (errno.EMFILE, errno.ENFILE):
        return TransientError(ErrorCode.NODE_FULL, what, hint="raise the limit of open files")
    if code == errno.ETIMEDOUT:
        return TransientError(ErrorCode.DEADLINE_EXCEEDED, what)
    return PermanentError(ErrorCode.INTERNAL, what)
