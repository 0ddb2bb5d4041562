"""Have threads for calls that block."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from agentd.errors import ErrorCode, TransientError


def full_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool all of whose threads run already, owned by the caller.

    One that starts them as they are needed fails in the middle of something else when no thread
    more may be made, and does later, for nobody, what it has queued. Raises: TransientError.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    all_run = threading.Barrier(threads)
    try:
        for done in [pool.submit(all_run.wait) for _ in range(threads)]:
            done.result()
    except RuntimeError as exc:
        all_run.abort()
        pool.shutdown()
        raise TransientError(
            ErrorCode.NODE_FULL,
            f"starting {threads} threads: {exc}",
            hint="raise the limit of tasks (TasksMax= of the unit)",
        ) from exc
    return pool
