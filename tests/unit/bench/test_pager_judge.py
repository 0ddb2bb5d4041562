"""Figures of the page server are compared with their limits, round by round."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from agentd.errors import InvariantError
from bench.pager.judge import (
    compared,
    idle,
    judge,
    mean_total_ms,
    memory,
    prefetch,
    ratios,
    restart,
    tail_words,
)
from bench.pager.lasting import Idle, Restart
from bench.pager.measure import Found
from bench.pager.placement import Placement
from bench.pager.stand import Clone
from bench.pager.workload import PAGE_BYTES, WRITTEN

CALM_IDLE = Idle(
    machines=256, before_bytes=1_000_000, after_bytes=26_600_000, watched_s=5, cpu_ns=0
)


def clone(total_ms: float = 1.0, resumed_us: float = 0.0, **changed: Any) -> Clone:
    whole: dict[str, Any] = {
        "at_ns": 0,
        "listened_ns": 0,
        "mapped_ns": 0,
        "resumed_ns": int(1e3 * resumed_us),
        "first_ns": 0,
        "total_ns": int(1e6 * total_ms),
        "sum": 0,
        "served": {"method": "install-before"},
        "memory": {"private_dirty": WRITTEN * PAGE_BYTES},
        "counters": {"copied": 7000, "install_ns": 8_000_000, "installed": 8000},
    }
    return Clone(**(whole | changed))


def found_with(**rounds: list[list[Clone]]) -> Found:
    """Everything as fast as what it is compared with, except what is named."""
    found = Found()
    names = [
        "ours",
        "ours-memfd",
        "ours-memfd-sparse",
        "ours-90",
        "ours-70",
        "ours-memfd-90",
        "ours-memfd-70",
    ]
    for name in names:
        found.rounds[name] = [[clone(0.7, 10_000)]] * 3
    for name in ("ours-8", "ours-memfd-8"):
        found.rounds[name] = [[clone(0.7)] * 8] * 3
    found.rounds["ours-8-cold"] = [[clone(0.1)] * 8] * 3
    found.rounds["ours-cold"] = found.rounds["ours-sparse-cold"] = [[clone(0.05)]] * 3
    found.rounds["ours-sparse"] = [[clone(0.7)]] * 3
    found.rounds["ours-whole"] = [[clone(0.7)]] * 3
    found.rounds["ours-8-whole"] = [[clone(0.7)] * 8] * 3
    found.rounds["ours-demand"] = [[clone(1, 3000)]] * 3
    for name in ("map", "map-whole", "map-cold", "map-sparse", "map-sparse-cold"):
        found.rounds[name] = [[clone(1)]] * 3
    for name in ("map-8", "map-8-cold", "map-8-whole"):
        found.rounds[name] = [[clone(1)] * 8] * 3
    for name in ("raw-before-8", "raw-share-8", "raw-before-8-cold"):
        found.rounds[name] = [[clone(0.6)] * 8] * 3
    for name in ("raw-bulk", "raw-runs", "raw-before", "raw-share", "raw-while-cold"):
        found.rounds[name] = [[clone()]] * 3
    for server in ("ours", "raw", "anonymous"):
        for placement in Placement:
            found.faults[server][placement] = [[float(v) for v in range(1, 1001)]] * 3
        found.first_page_us[server] = [float(v) for v in range(150)]
    found.rounds.update(rounds)
    return found


def killed(longest_ms: float, wrong: int = 0) -> Restart:
    return Restart(
        killed_ns=500_000_000,
        begun_ns=1,
        ended_ns=1_000_000_000,
        longest_ns=int(1e6 * longest_ms),
        longest_at_ns=2,
        touches=9,
        passes=1,
        wrong=wrong,
    )


def broken(found: Found, idle_found: Idle = CALM_IDLE, kill: Restart | None = None) -> list[str]:
    found.kills, found.calm = [kill or killed(20)], [killed(1)]
    rows = judge(found, idle_found)
    return [row.name for row in rows if not row.is_kept]


def test_limits_that_are_kept_break_nothing() -> None:
    assert broken(found_with()) == []


def test_a_ratio_is_taken_within_each_round() -> None:
    base = [100.0, 400.0, 110.0]
    found = ratios([70.0, 280.0, 88.0], base)
    assert (found.median, found.low, found.high) == pytest.approx((0.7, 0.7, 0.8))


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("value", "is_kept"), [(0.75, True), (0.76, False)], ids=["at it", "above it"]
)
def test_a_limit_is_the_highest_value_that_is_kept(value: float, is_kept: bool) -> None:
    row = compared("one", 0.75, [value], [1.0], "")
    assert row.is_kept is is_kept
    assert row.samples == {"ours": [value], "base": [1.0]}


def take_with_steal(monkeypatch: pytest.MonkeyPatch, readings: list[float]) -> tuple[Found, int]:
    """A sample, numbered by how often it was taken, while the host's counter goes on like this."""
    found, taken = Found(), count(1)
    monkeypatch.setattr("bench.pager.measure.read_steal_ms", iter(readings).__next__)
    return found, found.take(lambda: next(taken))


def test_a_sample_that_the_host_disturbed_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found, sample = take_with_steal(monkeypatch, [7.0, 8.0, 8.0, 10.0, 10.0, 10.0])
    assert (sample, found.set_aside, found.disturbed) == (3, 2, 0)


def test_where_the_host_always_disturbs_the_last_sample_is_kept_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, sample = take_with_steal(monkeypatch, [float(n) for n in range(10)])
    assert (sample, found.set_aside, found.disturbed) == (5, 4, 1)


def test_a_crowd_counts_by_the_mean_of_its_machines() -> None:
    assert mean_total_ms([[clone(10), clone(30)], [clone(5), clone(7)]]) == [20.0, 6.0]


@pytest.mark.parametrize(
    ("key", "total_ms", "name"),
    [
        ("ours", 0.76, "warm, one clone / MAP_PRIVATE"),
        ("ours-memfd", 0.76, "warm, one clone, memfd hand-over / MAP_PRIVATE"),
        ("ours-cold", 0.08, "cold, one clone / MAP_PRIVATE"),
        ("ours-90", 0.86, "warm, 90 % recorded / MAP_PRIVATE"),
        ("ours-70", 1.11, "warm, 70 % recorded / MAP_PRIVATE"),
        ("ours-memfd-90", 0.86, "warm, 90 % recorded, memfd hand-over / MAP_PRIVATE"),
        ("ours-memfd-70", 1.11, "warm, 70 % recorded, memfd hand-over / MAP_PRIVATE"),
    ],
)
def test_a_slow_way_to_the_working_set_is_named(key: str, total_ms: float, name: str) -> None:
    slow = [[clone(total_ms, 10_000)]] * 3
    assert broken(found_with(**{key: slow})) == [name]


@pytest.mark.parametrize(
    ("key", "total_ms", "name"),
    [
        ("ours-8", 0.76, "warm, 8 clones, mean / MAP_PRIVATE"),
        ("ours-memfd-8", 0.76, "warm, 8 clones, mean, memfd hand-over / MAP_PRIVATE"),
        ("ours-8-cold", 0.18, "cold, 8 clones, mean / MAP_PRIVATE"),
    ],
)
def test_a_slow_crowd_is_named(key: str, total_ms: float, name: str) -> None:
    assert broken(found_with(**{key: [[clone(total_ms)] * 8] * 3})) == [name]


@pytest.mark.parametrize("placement", list(Placement))
def test_a_tail_of_the_faults_is_judged_apart_from_their_middle(placement: Placement) -> None:
    found = found_with()
    tail = [*map(float, range(1, 981)), *[2000.0] * 20]
    found.faults["ours"][placement] = [tail] * 3
    assert broken(found) == [f"4 KiB fault p99 / smallest loop, {placement}"]


def test_prefetch_is_what_a_hand_over_with_nothing_recorded_does_not_take() -> None:
    row = prefetch(found_with())
    assert row.samples["ours"] == [1.0] * 3  # (10,000 - 3,000) us for 7,000 copied pages
    assert row.samples["base"] == [1.0] * 3  # 8,000 us for 8,000 pages
    assert row.is_kept
    slow = [[clone(0.7, 10_701)]] * 3
    assert not prefetch(found_with(ours=slow)).is_kept


def test_private_memory_is_a_share_of_what_was_written() -> None:
    much = int(1.06 * WRITTEN * PAGE_BYTES)
    crowd = [[clone(0.7, memory={"private_dirty": much})] * 8] * 3
    assert memory(found_with()).samples["ours"] == [1.0] * 3
    assert not memory(found_with(**{"ours-memfd-8": crowd})).is_kept


def test_the_longest_of_all_stalls_is_judged() -> None:
    assert all(row.is_kept for row in restart([killed(10), killed(50)], [killed(1)]))
    rows = restart([killed(10), killed(51), killed(12)], [killed(1)])
    assert [row.is_kept for row in rows] == [False, True]


def test_a_wrong_page_is_a_broken_promise_however_fast_it_came() -> None:
    assert [row.is_kept for row in restart([killed(1, wrong=1)], [killed(1)])] == [True, False]


def test_a_kill_that_missed_its_machine_measured_nothing() -> None:
    late = Restart(2_000_000_000, 1, 1_000_000_000, 5, 2, 9, 1, 0)
    with pytest.raises(InvariantError, match="1 of 2 kills"):
        restart([killed(1), late], [killed(1)])


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        (Idle(100, 0, 99_900_000, 5, 0), [True, True]),
        (Idle(100, 0, 100_000_000, 5, 0), [False, True]),
        (Idle(100, 0, 0, 5, 6_000_000), [True, False]),
    ],
    ids=["small", "a megabyte each", "busy"],
)
def test_idle_machines_are_judged_by_memory_and_by_processor_time(
    found: Idle, kept: list[bool]
) -> None:
    assert [row.is_kept for row in idle(found)] == kept


def test_a_tail_is_told_only_by_samples_that_carry_it() -> None:
    assert tail_words([float(v) for v in range(50)]) == "p50 24 us of 50"
    assert tail_words([float(v) for v in range(101)]) == "p50 50, p95 95 us of 101"
    assert tail_words([float(v) for v in range(501)]) == "p50 250, p95 475, p99 495 us of 501"
