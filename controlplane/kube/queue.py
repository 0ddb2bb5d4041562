"""Order the keys that are to be reconciled: each once, one worker at a time, failures later."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable
from random import Random
from typing import Generic, TypeVar

from controlplane.kube.backoff import Backoff

K = TypeVar("K", bound=Hashable)


class KeyQueue(Generic[K]):
    """The queue's state without tasks or a clock. Times are seconds of one monotonic clock.

    A key that is added while it is worked on is handed out again after `done`. Of several times for
    a key the earliest counts; being handed out does not cancel a later one.
    """

    def __init__(self, random: Random, backoff: Backoff) -> None:
        self._random = random
        self._backoff = backoff
        self._ready: deque[K] = deque()
        self._dirty: set[K] = set()  # to be handed out: ready, or worked on right now
        self._working: set[K] = set()
        self._timers: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._serial = 0
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        """How many keys are ready to be handed out."""
        return len(self._ready)

    @property
    def is_idle(self) -> bool:
        """Nothing is ready or worked on; times may still be pending."""
        return not self._ready and not self._working

    def add(self, key: K) -> None:
        """Hand it out as soon as possible."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._working:
            self._ready.append(key)

    def add_at(self, key: K, at_s: float) -> None:
        """Hand it out at a time, if no earlier one is pending."""
        if at_s < self._due.get(key, float("inf")):
            self._due[key] = at_s
            self._serial += 1
            heapq.heappush(self._timers, (at_s, self._serial, key))
            if len(self._timers) > 64 + 2 * len(self._due):
                self._drop_replaced()

    def take(self, now_s: float) -> K | None:
        """The next key, which is then worked on until `done`; None if there is none now."""
        self._wake(now_s)
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """The work on a key ended, well or not."""
        self._working.discard(key)
        if key in self._dirty:
            self._ready.append(key)

    def failed(self, key: K, now_s: float, delay_s: float = 0.0) -> float:
        """Hand it out again after a back-off, which is at least delay_s. Returns: the delay."""
        self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = max(delay_s, self._backoff.delay_s(self._failures[key], self._random))
        self.add_at(key, now_s + delay_s)
        return delay_s

    def forget(self, key: K) -> None:
        """It went well: its next failure is the first."""
        self._failures.pop(key, None)

    def next_due(self) -> float | None:
        """When `take` is worth calling again if nothing is added; None: never."""
        while self._timers and self._is_replaced(self._timers[0]):
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _wake(self, now_s: float) -> None:
        while (due := self.next_due()) is not None and due <= now_s:
            key = heapq.heappop(self._timers)[2]
            del self._due[key]
            self.add(key)

    def _is_replaced(self, timer: tuple[float, int, K]) -> bool:
        return self._due.get(timer[2]) != timer[0]

    def _drop_replaced(self) -> None:
        self._timers = [timer for timer in self._timers if not self._is_replaced(timer)]
        heapq.heapify(self._timers)
