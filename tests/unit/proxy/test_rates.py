"""A storm of calls is held back, a burst is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentd.proxy.limits import RATES, TokenBucket
from agentd.proxy.requests import Action


def test_a_burst_passes_then_one_at_a_time() -> None:
    bucket = TokenBucket(burst=2, every_s=10.0)
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 10.0]
    assert bucket.take(106.0) == 4.0
    assert bucket.take(110.0) == 0.0
    assert bucket.take(110.0) == 10.0


def test_what_was_not_used_is_kept_up_to_the_burst() -> None:
    bucket = TokenBucket(burst=2, every_s=1.0)
    assert [bucket.take(1e6) for _ in range(3)] == [0.0, 0.0, 1.0]
    assert [bucket.take(2e6) for _ in range(3)] == [0.0, 0.0, 1.0]


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(burst=1, every_s=1.0)
    assert bucket.take(100.0) == 0.0
    assert bucket.take(50.0) == 1.0


@given(st.lists(st.floats(0.0, 5.0), max_size=200))
def test_no_more_pass_than_burst_and_time_allow(steps: list[float]) -> None:
    bucket, now_s, passed = TokenBucket(burst=3, every_s=2.0), 0.0, 0
    for step in steps:
        now_s += step
        passed += bucket.take(now_s) == 0.0
    assert passed <= 3 + now_s / 2.0 + 1e-6


def test_every_action_has_a_rate() -> None:
    assert set(RATES) == set(Action)
