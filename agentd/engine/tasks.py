"""Own background tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from agentd.engine.trace import Tracer

T = TypeVar("T")


async def uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Run cleanup to its end even when the caller is cancelled; the cancellation comes after it."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not task.cancelled():
            task.exception()  # retrieved: the cancellation is what the caller hears of
        raise asyncio.CancelledError
    return task.result()


class Tasks:
    """Named tasks of one owner; `stop` awaits them all. An error in one is reported at once."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._running: set[asyncio.Task[Any]] = set()

    def start(
        self, name: str, work: Coroutine[Any, Any, T], *, eternal: bool = False
    ) -> asyncio.Task[T]:
        """Run work in a task. eternal: its end, other than by cancellation, is a defect."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(lambda done: self._on_done(done, eternal))
        return task

    async def stop(self, deadline_s: float) -> bool:
        """Cancel what runs, wait for it. Returns: False if something outlived the deadline."""
        for task in self._running:
            task.cancel()
        return await self.drain(deadline_s)

    async def drain(self, deadline_s: float) -> bool:
        """Wait for what runs. Returns: False if something outlived the deadline."""
        if not self._running:
            return True
        _, pending = await asyncio.wait(self._running, timeout=deadline_s)
        for task in pending:
            self._tracer.step("task.stop.failed", task=task.get_name(), deadline_s=deadline_s)
        return not pending

    def _on_done(self, task: asyncio.Task[Any], eternal: bool) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._tracer.step("task.failed", task=task.get_name(), error=f"{error!r}")
        elif eternal:
            self._tracer.step("task.ended_early", task=task.get_name())
