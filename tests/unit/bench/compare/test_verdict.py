"""Simulated machines: a slow-down is found, equal builds are left alone, doubt is told."""

from __future__ import annotations

import numpy as np
import pytest

from bench.compare.__main__ import ROUNDS
from bench.compare.rounds import LOOKS
from bench.compare.verdict import FALSE_ALARMS, Judged, Verdict, judge_all, least_rounds

SERIES = 12
COMPARISONS = 2000
# Were the chance of a false alarm 1 %, so many or fewer would be seen 999 times of 1,000.
MOST_ALARMS = 34


def a_shared_machine(draw: np.random.Generator, rounds: int) -> np.ndarray:
    """Logarithms of times, by series, round, look, turn. The two turns of a look are neighbours.

    In half of all turns somebody else is on the core, mostly as in the turn before: everything
    takes 30 to 80 % longer. Each turn has a noise that only adds. Clocks drift: each round keeps
    90 % of the one before, deviation 20 %.
    """
    drift = [draw.normal(0, 0.2)]
    for fresh in draw.normal(0, 0.2 * np.sqrt(1 - 0.9**2), rounds - 1):
        drift.append(0.9 * drift[-1] + fresh)
    turns = rounds * LOOKS * 2
    comes_or_goes = draw.random(turns) < 0.1
    slow = (np.cumsum(comes_or_goes) % 2) * draw.uniform(np.log(1.3), np.log(1.8), turns)
    noise = draw.exponential(0.02, (SERIES, rounds, LOOKS, 2))
    return np.array(drift)[:, None, None] + slow.reshape(rounds, LOOKS, 2) + noise


def compare(
    seed: int, *, slower: float = 1.0, rounds: int = 16, threshold: float = 0.05
) -> list[Judged]:
    """One comparison, in whose head the first series takes `slower` times as long.

    Each process has a luck of its own with each series, of heavy tails: 1.5 % by Student's t.
    """
    draw = np.random.default_rng(seed)
    times = np.exp(a_shared_machine(draw, rounds))
    is_head_first = draw.random((rounds, LOOKS)) < 0.5
    head = np.where(is_head_first, times[..., 0], times[..., 1])
    base = np.where(is_head_first, times[..., 1], times[..., 0])
    head[0] *= slower
    luck = np.exp(0.015 * draw.standard_t(3, (2, SERIES, rounds, 1)))
    sides = [
        {f"series {n:02}": found for n, found in enumerate(side[..., None].tolist())}
        for side in (base * luck[0], head * luck[1])
    ]
    return judge_all(*sides, dict.fromkeys(sides[0], threshold))


@pytest.mark.timeout(180)
def test_a_slow_down_of_15_percent_is_found_in_the_usual_rounds_19_times_of_20() -> None:
    found = [compare(seed, slower=1.15, rounds=ROUNDS)[0] for seed in range(200)]
    assert sum(one.verdict is Verdict.WORSE for one in found) >= 190
    assert all(1.05 < one.ratio < 1.25 for one in found)


@pytest.mark.timeout(180)
def test_equal_builds_raise_a_false_alarm_in_one_comparison_of_a_hundred_at_most() -> None:
    """Without a threshold, which would hide alarms."""
    alarms = 0
    for seed in range(COMPARISONS):
        verdicts = {one.verdict for one in compare(seed, threshold=0.0)}
        alarms += bool(verdicts & {Verdict.WORSE, Verdict.BETTER})
    assert FALSE_ALARMS == 0.01
    assert alarms <= MOST_ALARMS


def test_judging_each_series_alone_would_raise_more_alarms() -> None:
    """The test above can fail: with p as of one series, many of these equal builds differ."""
    alone = sum(
        any(one.p / SERIES <= FALSE_ALARMS for one in compare(seed, threshold=0.0))
        for seed in range(300)
    )
    assert alone / 300 > 3 * FALSE_ALARMS


def test_looks_disturbed_on_one_side_are_outvoted() -> None:
    look, disturbed = [1.0, 1.1], [1.8, 2.0]
    base, head = {"a": [[look] * 8] * 20}, {"a": [[disturbed] * 3 + [look] * 5] * 20}
    judged = judge_all(base, head, {"a": 0.05})[0]
    assert (judged.ratio, judged.verdict) == (1.0, Verdict.SAME)


def test_what_became_faster_is_better() -> None:
    assert compare(1, slower=0.8, rounds=ROUNDS)[0].verdict is Verdict.BETTER


def test_a_change_below_the_threshold_is_none() -> None:
    """However sure it is."""
    judged = compare(2, slower=1.15, rounds=60, threshold=0.3)[0]
    assert judged.p <= FALSE_ALARMS
    assert judged.verdict is Verdict.SAME


def test_equal_builds_are_called_the_same_once_there_are_rounds_enough() -> None:
    judged = compare(3, rounds=200)
    assert sum(one.verdict is Verdict.SAME for one in judged) >= SERIES - 1


def test_too_few_rounds_are_said_to_be_too_few() -> None:
    judged = compare(4, slower=1.15, rounds=4)[0]
    assert judged.verdict is Verdict.NOISY
    assert judged.rounds + judged.more_rounds >= least_rounds(SERIES)


def test_the_rounds_it_asks_for_mostly_tell() -> None:
    told = 0
    for seed in range(40):
        first = compare(seed, slower=1.4, rounds=8)[0]
        assert first.verdict is Verdict.NOISY
        again = compare(seed + 1000, slower=1.4, rounds=8 + first.more_rounds)[0]
        told += again.verdict is Verdict.WORSE
    assert told >= 20


def test_five_rounds_never_say_that_there_is_no_difference() -> None:
    same = {"a": [[[1.0]]] * 5}
    assert judge_all(same, same, {"a": 0.05})[0].verdict is Verdict.NOISY
    same = {"a": [[[1.0]]] * 6}
    assert judge_all(same, same, {"a": 0.05})[0].verdict is Verdict.SAME


@pytest.mark.parametrize("series", [1, 12, 40])
def test_least_rounds_are_those_in_which_a_clear_change_is_seen(series: int) -> None:
    rounds = least_rounds(series)
    for number, wanted in ((rounds - 1, Verdict.NOISY), (rounds, Verdict.WORSE)):
        base = {str(n): [[[1.0]]] * number for n in range(series)}
        head = {str(n): [[[2.0 if n == 0 else 1.0]]] * number for n in range(series)}
        assert judge_all(base, head, dict.fromkeys(base, 0.05))[0].verdict is wanted


def test_series_of_one_side_are_left_out_and_uneven_rounds_refused() -> None:
    look = [1.0]
    assert judge_all({"a": [[look]]}, {"b": [[look]]}, {}) == []
    for base in ([[look], [look]], [[look, look]]):
        with pytest.raises(ValueError, match="shorter"):
            judge_all({"a": base}, {"a": [[look]]}, {"a": 0.05})
