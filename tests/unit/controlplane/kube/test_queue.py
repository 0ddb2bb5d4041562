"""A key is worked on once at a time, and never lost."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from controlplane.kube.backoff import Backoff
from controlplane.kube.queue import KeyQueue


def _queue() -> KeyQueue[str]:
    return KeyQueue(Random(1), Backoff(base_s=1.0, cap_s=8.0, jitter=0.0))


def test_keys_come_once_and_in_order() -> None:
    queue = _queue()
    for key in "abab":
        queue.add(key)
    assert [queue.take(0.0) for _ in range(3)] == ["a", "b", None]


def test_a_key_added_while_worked_on_comes_again_only_when_done() -> None:
    queue = _queue()
    queue.add("a")
    queue.take(0.0)
    queue.add("a")
    assert queue.take(0.0) is None
    queue.done("a")
    assert queue.take(0.0) == "a"
    queue.done("a")
    assert queue.take(0.0) is None
    assert queue.is_idle


def test_the_earliest_time_counts() -> None:
    queue = _queue()
    queue.add_at("a", 10.0)
    queue.add_at("a", 5.0)
    queue.add_at("a", 7.0)
    assert queue.next_due() == 5.0
    assert queue.take(4.9) is None
    assert queue.take(5.0) == "a"
    queue.done("a")
    assert queue.take(100.0) is None


def test_being_handed_out_does_not_cancel_a_later_time() -> None:
    queue = _queue()
    queue.add_at("a", 10.0)
    queue.add("a")
    assert queue.take(0.0) == "a"
    queue.done("a")
    assert queue.take(10.0) == "a"


def test_failures_back_off_until_forgotten() -> None:
    queue = _queue()
    assert [queue.failed("a", 0.0) for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert queue.failed("b", 0.0, delay_s=60.0) == 60.0
    queue.forget("a")
    assert queue.failed("a", 0.0) == 1.0


def test_jitter_shortens_but_never_to_nothing() -> None:
    backoff = Backoff(base_s=1.0, cap_s=8.0, jitter=0.5)
    delays = [backoff.delay_s(failures, Random(seed)) for failures in (1, 99) for seed in range(50)]
    assert min(delays) >= 0.5
    assert 4.0 <= max(delays) <= 8.0


def test_replaced_times_do_not_pile_up() -> None:
    queue = _queue()
    for number in range(10_000):
        queue.add_at("a", 20_000.0 - number)
    assert len(queue._timers) < 100
    assert queue.next_due() == 10_001.0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.sampled_from("abc")),
            st.tuples(st.just("at"), st.sampled_from("abc"), st.integers(0, 9)),
            st.tuples(st.just("take")),
            st.tuples(st.just("done"), st.sampled_from("abc")),
            st.tuples(st.just("fail"), st.sampled_from("abc")),
            st.tuples(st.just("tick")),
        ),
        max_size=60,
    )
)
def test_what_is_asked_for_is_handed_out_afterwards(
    steps: list[tuple[str, str] | tuple[str, str, int] | tuple[str]],
) -> None:
    queue, now = _queue(), 0.0
    working: set[str] = set()
    wanted: set[str] = set()
    for step in steps:
        match step:
            case ("add", str(key)):
                queue.add(key)
                wanted.add(key)
            case ("at", str(key), int(delay)):
                queue.add_at(key, now + delay)
                wanted.add(key)
            case ("take",):
                taken = queue.take(now)
                if taken is not None:
                    assert taken not in working
                    working.add(taken)
                    wanted.discard(taken)
            case ("done", str(key)) if key in working:
                queue.done(key)
                working.discard(key)
            case ("fail", str(key)) if key in working:
                queue.failed(key, now)
                queue.done(key)
                working.discard(key)
                wanted.add(key)
            case _:
                now += 1.0
    for key in working:
        queue.done(key)
    handed = set()
    while (key := queue.take(now + 1000.0)) is not None:
        handed.add(key)
    assert wanted <= handed
