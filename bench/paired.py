"""Compare two series whose samples were taken in turn."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from agentd.cli.report_stats import quantile

_ROUNDS = 5000


@dataclass(frozen=True)
class Ratio:
    """The median of pairwise ratios with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int


def paired_ratio(ours: Sequence[float], floor: Sequence[float]) -> Ratio:
    """How many times the floor ours takes, pair by pair; seeded, so equal input, equal output."""
    ratios = [a / b for a, b in zip(ours, floor, strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(_ROUNDS))
    return Ratio(
        statistics.median(ratios), quantile(medians, 0.025), quantile(medians, 0.975), len(ratios)
    )
