"""Run asyncio code without a clock, in an order that a seed decides.

Production code runs as it is: its tasks, timers, time-outs are those of asyncio, on this loop.
What it asks of the outside world is a pending operation (`network.py`); the world picks which one
happens next. Each task belongs to a process; what a dead process would have done is never run.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

_LIVELOCK = 200_000


@dataclass(eq=False)
class Process:
    """One run of a program. is_alive: a dead one neither does nor hears anything any more."""

    name: str
    is_alive: bool = True
    notes: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.name


PROCESS: ContextVar[Process | None] = ContextVar("simulated_process", default=None)


class SimLoop(asyncio.AbstractEventLoop):
    """Virtual time; first come, first served among what is ready. Nothing here is random."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.errors: list[str] = []
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._serial = 0
        self._tasks: list[asyncio.Task[Any]] = []

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    # What the world does with it

    def start(self, process: Process | None, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run work as a process's."""
        context = copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(work, context=context)

    def drain(self) -> None:
        """Run what is ready, and what becomes so, until nothing is."""
        count = 0
        while self._ready:
            handle = self._ready.popleft()
            if not handle.cancelled() and self._is_wanted(handle):
                handle._run()
            count += 1
            if count > _LIVELOCK:
                raise RuntimeError("livelock: code runs on and on without any effect")

    def next_timer_s(self) -> float | None:
        """When the next timer is due."""
        while self._timers:
            when, _, handle = self._timers[0]
            if not handle.cancelled() and self._is_wanted(handle):
                return when
            heapq.heappop(self._timers)
        return None

    def advance(self, to_s: float) -> None:
        """Let time pass; what falls due is ready, in its order."""
        self.now_s = max(self.now_s, to_s)
        while self._timers and self._timers[0][0] <= self.now_s:
            handle = heapq.heappop(self._timers)[2]
            if not handle.cancelled():
                self._ready.append(handle)

    def close(self) -> None:
        """Drop whatever still waits; nothing of it has an effect any more."""
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coro: Any = task.get_coro()
                with suppress(RuntimeError, asyncio.CancelledError):
                    coro.close()
            elif not task.cancelled():
                task.exception()
        self._ready.clear()
        self._tasks.clear()

    @staticmethod
    def _is_wanted(handle: asyncio.Handle) -> bool:
        process = handle._context.get(PROCESS)  # type: ignore[attr-defined]
        return process is None or process.is_alive


def make_loop() -> SimLoop:
    """A loop at second zero. It has what is used here of what a loop has."""
    kind: Any = SimLoop
    made: SimLoop = kind()
    return made
