"""One timer serves all sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from agentd.engine.expiry import Expiry


class FakeClock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], Any], /) -> asyncio.TimerHandle:
        timer = FakeTimer(self, when, callback)
        self.timers.append(timer)
        return cast(asyncio.TimerHandle, timer)

    def advance(self, to: float) -> None:
        """Run every timer up to a time."""
        while due := [timer for timer in self.timers if timer.when <= to]:
            first = min(due, key=lambda timer: timer.when)
            self.timers.remove(first)
            self.now = max(self.now, first.when)
            first.callback()
        self.now = to


class FakeTimer:
    """One timer."""

    def __init__(self, clock: FakeClock, when: float, callback: Callable[[], Any]) -> None:
        self.clock = clock
        self.when = when
        self.callback = callback

    def cancel(self) -> None:
        if self in self.clock.timers:
            self.clock.timers.remove(self)


def test_each_session_expires_once_at_its_time() -> None:
    clock, expired = FakeClock(), list[tuple[float, str]]()
    due: dict[str, float] = {"a": 3.0, "b": 1.0, "c": 2.0}
    expiry = Expiry(clock, due.get, lambda name: expired.append((clock.now, name)))
    for name in due:
        expiry.add(name)
        assert len(clock.timers) == 1
    clock.advance(10.0)
    assert expired == [(1.0, "b"), (2.0, "c"), (3.0, "a")]
    assert clock.timers == []


def test_use_moves_the_deadline_without_touching_the_timer() -> None:
    clock, expired = FakeClock(), list[float]()
    due = {"a": 1.0}
    expiry = Expiry(clock, due.get, lambda _: expired.append(clock.now))
    expiry.add("a")
    due["a"] = 5.0
    clock.advance(4.0)
    assert expired == []
    clock.advance(6.0)
    assert expired == [5.0]


def test_a_session_that_is_gone_is_forgotten() -> None:
    clock, expired = FakeClock(), list[str]()
    due = {"a": 1.0}
    expiry = Expiry(clock, due.get, expired.append)
    expiry.add("a")
    due.clear()
    clock.advance(2.0)
    assert (expired, clock.timers) == ([], [])


def test_closing_stops_the_timer() -> None:
    clock = FakeClock()
    expiry = Expiry(clock, {"a": 1.0}.get, lambda _: None)
    expiry.add("a")
    expiry.close()
    expiry.close()
    assert clock.timers == []
