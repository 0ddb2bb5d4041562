"""Decide whether a quantity grows.

The rule. Samples are taken once for each round, when nothing runs but what always runs; the first
WARM_UP of each process's life are left out. A quantity grows if both are true:

- Kendall's test, within each life by itself and summed over lives (the seasonal Kendall test of
  Hirsch and Slack, 1984), says that later samples are larger with p < P_LIMIT, one-sided;
- the Theil-Sen slope, the median of the slopes between any two samples of one life, over the rounds
  that the longest life had, is more than what the quantity may vary by.

Both work on ranks or medians: a single sample that is off, however far, decides nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WARM_UP: Final = 12  # rounds, with the first two builds
P_LIMIT: Final = 0.01
FEWEST: Final = 6  # samples; below it p can hardly fall under the limit


@dataclass(frozen=True)
class Trend:
    """p: None with too few samples to say. growth: over the longest life, in the unit."""

    samples: int
    p: float | None
    growth: float
    is_growing: bool


def judge(lives: Sequence[Sequence[float]], allowed: float) -> Trend:
    """lives: samples in order, one list for each life. allowed: growth that is none."""
    kept = [life[WARM_UP:] for life in lives if len(life) > WARM_UP + 1]
    count = sum(map(len, kept))
    if count < FEWEST:
        return Trend(count, None, 0.0, False)
    p = _p_of_rise(kept)
    growth = _slope(kept) * max(map(len, kept))
    return Trend(count, p, growth, p < P_LIMIT and growth > allowed)


def _p_of_rise(lives: Sequence[Sequence[float]]) -> float:
    """By the normal approximation, with the correction for ties and for continuity."""
    score = sum(_score(life) for life in lives)
    variance = sum(_variance(life) for life in lives)
    if variance <= 0:
        return 1.0
    z = (score - (1 if score > 0 else -1 if score < 0 else 0)) / math.sqrt(variance)
    return 0.5 * math.erfc(z / math.sqrt(2))


def _score(life: Sequence[float]) -> int:
    return sum((b > a) - (b < a) for i, a in enumerate(life) for b in life[i + 1 :])


def _variance(life: Sequence[float]) -> float:
    n = len(life)
    ties = [life.count(value) for value in set(life)]
    return (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18


def _slope(lives: Sequence[Sequence[float]]) -> float:
    slopes = [
        (b - a) / (j - i)
        for life in lives
        for i, a in enumerate(life)
        for j, b in enumerate(life[i + 1 :], i + 1)
    ]
    return statistics.median(slopes)
