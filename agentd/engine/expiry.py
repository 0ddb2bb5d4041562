"""Wake when the next session is due."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Any, Protocol


class Clock(Protocol):
    """What is used of an event loop: a clock in seconds with timers."""

    def time(self) -> float:
        """Now."""

    def call_at(self, when: float, callback: Callable[[], Any], /) -> asyncio.TimerHandle:
        """Call back at a time."""


class Expiry:
    """One timer for any number of sessions, each with one entry in a heap.

    Using a session moves its deadline but not its entry: at the entry's time the deadline is asked
    for again. So deadlines may move to later only, which costs nothing per use.

    Args: deadline_of: when a session is due, None once it needs no timer. expire: called when due.
    """

    def __init__(
        self,
        clock: Clock,
        deadline_of: Callable[[str], float | None],
        expire: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._deadline_of = deadline_of
        self._expire = expire
        self._heap: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, session_id: str) -> None:
        """Begin to watch a session."""
        deadline = self._deadline_of(session_id)
        if deadline is not None:
            heapq.heappush(self._heap, (deadline, session_id))
            self._arm()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._heap.clear()
        self._arm()

    def _on_timer(self) -> None:
        now = self._clock.time()
        due: list[str] = []
        while self._heap and self._heap[0][0] <= now:
            _, session_id = heapq.heappop(self._heap)
            deadline = self._deadline_of(session_id)
            if deadline is None:
                continue
            if deadline <= now:
                due.append(session_id)
            else:
                heapq.heappush(self._heap, (deadline, session_id))
        self._arm()
        for session_id in due:
            self._expire(session_id)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._timer = self._clock.call_at(self._heap[0][0], self._on_timer)
