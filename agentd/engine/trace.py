"""Report each step of the engine to whoever watches: logs, metrics, tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Tracer(Protocol):
    """Called synchronously at every step, after the effect that the event names."""

    def step(self, event: str, /, **details: str | int | float) -> None:
        """One step. event: dotted name, e.g. `session.spawned`. details: ids, durations in ms."""


class Tracers:
    """Hands each step to several watchers, in order."""

    def __init__(self, watchers: Iterable[Tracer]) -> None:
        self._watchers = tuple(watchers)

    def step(self, event: str, /, **details: str | int | float) -> None:
        """Hand one step on."""
        for watcher in self._watchers:
            watcher.step(event, **details)
