"""A planted slow-down is found, equal builds are left alone, and doubt is told."""

from __future__ import annotations

import random

import pytest

from bench.compare.verdict import FALSE_ALARMS, Judged, Verdict, judge_all

ROUNDS = 16
SERIES = 12


def a_round(draw: random.Random, ms: float, weather: float) -> list[float]:
    """What a shared machine gives: weather of its own in each round, stalls in some samples."""
    return [ms * weather * draw.lognormvariate(0, 0.08) + stall(draw) for _ in range(7)]


def stall(draw: random.Random) -> float:
    return draw.expovariate(0.02) if draw.random() < 0.05 else 0.0


def compare(seed: int, slower: float, rounds: int = ROUNDS) -> list[Judged]:
    """One comparison of SERIES series, the first of which has been made slower."""
    draw = random.Random(seed)
    base: dict[str, list[list[float]]] = {}
    head: dict[str, list[list[float]]] = {}
    for number in range(SERIES):
        name = f"series {number:02}"
        factor = slower if number == 0 else 1.0
        for _ in range(rounds):
            weather = draw.lognormvariate(0, 0.2)
            drift = draw.lognormvariate(0, 0.04)
            base.setdefault(name, []).append(a_round(draw, 10, weather))
            head.setdefault(name, []).append(a_round(draw, 10 * factor, weather * drift))
    return judge_all(base, head, dict.fromkeys(base, 0.05))


def test_a_planted_slow_down_of_15_percent_is_found_in_16_rounds() -> None:
    found = [compare(seed, slower=1.15)[0] for seed in range(60)]
    assert sum(one.verdict is Verdict.WORSE for one in found) >= 58
    assert all(1.05 < one.ratio < 1.25 for one in found)


def test_what_became_faster_is_better() -> None:
    assert compare(1, slower=0.8)[0].verdict is Verdict.BETTER


def test_equal_builds_raise_an_alarm_in_fewer_than_one_comparison_of_a_hundred() -> None:
    alarms = 0
    for seed in range(200):
        verdicts = {one.verdict for one in compare(seed, slower=1.0)}
        alarms += bool(verdicts & {Verdict.WORSE, Verdict.BETTER})
    assert alarms / 200 <= FALSE_ALARMS


def test_equal_builds_are_called_the_same_once_there_are_rounds_enough() -> None:
    judged = compare(3, slower=1.0, rounds=60)
    assert sum(one.verdict is Verdict.SAME for one in judged) >= SERIES - 2


def test_too_few_rounds_are_said_to_be_too_few() -> None:
    judged = compare(4, slower=1.15, rounds=4)[0]
    assert judged.verdict is Verdict.NOISY
    assert judged.more_rounds >= 1


def test_series_of_one_side_are_left_out_and_uneven_rounds_refused() -> None:
    assert judge_all({"a": [[1.0]]}, {"b": [[1.0]]}, {}) == []
    with pytest.raises(ValueError, match="shorter"):
        judge_all({"a": [[1.0], [1.0]]}, {"a": [[1.0]]}, {"a": 0.05})
