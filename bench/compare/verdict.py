"""Decide of each series whether the head is better, worse, the same, or too noisy to say."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.compare.signed_ranks import Shift, holm, judge_shift

# The chance that one comparison of equal builds calls any of its series better or worse.
FALSE_ALARMS = 0.01
CONFIDENCE = 0.95
# With fewer no interval is that sure: all signs are equal in one of 2 ** 4 cases.
_LEAST_FOR_SAME = 6

# Of each round the samples of each look.
Rounds = Sequence[Sequence[Sequence[float]]]


class Verdict(enum.Enum):
    """What is known of a series; only WORSE fails a comparison."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no difference"
    NOISY = "too noisy to say"


@dataclass(frozen=True)
class Judged:
    """One series. ratio, low, high: time of head / time of base, with its 95 % interval.

    p: among all series of the comparison. more_rounds: how many more would probably tell, 0 when
    it is told.
    """

    name: str
    verdict: Verdict
    ratio: float
    low: float
    high: float
    p: float
    rounds: int
    threshold: float
    more_rounds: int = 0


def judge_all(
    base: Mapping[str, Rounds], head: Mapping[str, Rounds], thresholds: Mapping[str, float]
) -> list[Judged]:
    """Judge every series that both have.

    Rounds: times, none zero; looks of the same number, in rounds of the same number, were next to
    each other. thresholds: from which change on a series is worse, 0.05 for 5 %.
    Raises: ValueError when a series has different numbers of rounds, or of looks.
    """
    names = sorted(base.keys() & head.keys())
    shifts = [judge_shift(_differences(base[name], head[name]), CONFIDENCE) for name in names]
    adjusted = holm([shift.p for shift in shifts])
    return [
        judge(name, shift, p, thresholds[name], least_rounds(len(names)))
        for name, shift, p in zip(names, shifts, adjusted, strict=True)
    ]


def least_rounds(series: int) -> int:
    """With fewer, even a change in every single round could be chance's among so many series."""
    return math.ceil(math.log2(2 * max(series, 1) / FALSE_ALARMS))


def judge(name: str, shift: Shift, p: float, threshold: float, least: int) -> Judged:
    """One series, its p already adjusted for the others beside it. least: rounds that can tell."""
    bound = math.log1p(threshold)
    verdict = _choose(shift, p, bound)
    more = 0
    if verdict is Verdict.NOISY:
        more = max(_more_rounds(shift, bound), least - shift.pairs)
    ratio, low, high = (math.exp(x) for x in (shift.estimate, shift.low, shift.high))
    return Judged(name, verdict, ratio, low, high, p, shift.pairs, threshold, more)


def _choose(shift: Shift, p: float, bound: float) -> Verdict:
    if p <= FALSE_ALARMS and abs(shift.estimate) > bound:
        return Verdict.WORSE if shift.estimate > 0 else Verdict.BETTER
    if shift.pairs >= _LEAST_FOR_SAME and -bound <= shift.low and shift.high <= bound:
        return Verdict.SAME
    return Verdict.NOISY


def _differences(base: Rounds, head: Rounds) -> list[float]:
    """The logarithm of the ratio of each round: that of its middle look.

    Looks that the machine disturbed on one side only, fewer than half, move it little.
    """
    return [
        statistics.median(_ratio(*looks) for looks in zip(*sides, strict=True))
        for sides in zip(base, head, strict=True)
    ]


def _ratio(base: Sequence[float], head: Sequence[float]) -> float:
    return math.log(statistics.median(head) / statistics.median(base))


def _more_rounds(shift: Shift, bound: float) -> int:
    """Rounds until the interval leaves the bound to one side: its width goes with their root."""
    room = max(abs(abs(shift.estimate) - bound), bound / 4)
    width = max((shift.high - shift.low) / 2, 1e-9)
    needed = math.ceil(shift.pairs * (width / room) ** 2)
    return max(1, needed - shift.pairs)
