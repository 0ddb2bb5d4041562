"""Summarise samples without promising more than their number carries."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

# A percentile is given when at least this many samples are expected beyond it.
TAIL_SAMPLES = 5
_BOOTSTRAP_ROUNDS = 2000
_BOOTSTRAP_MIN_SAMPLES = 8


@dataclass(frozen=True)
class Summary:
    """Order statistics of some samples in milliseconds; p95, p99 None if too few carry them."""

    count: int
    minimum: float
    lower: float
    median: float
    upper: float
    maximum: float
    p95: float | None
    p99: float | None


def summarize(values: Sequence[float]) -> Summary | None:
    """The summary of samples, or None if there are none."""
    if not values:
        return None
    ordered = sorted(values)
    return Summary(
        len(ordered),
        ordered[0],
        quantile(ordered, 0.25),
        quantile(ordered, 0.5),
        quantile(ordered, 0.75),
        ordered[-1],
        _tail(ordered, 95),
        _tail(ordered, 99),
    )


def samples_needed(percentile: int) -> int:
    """How many samples a tail percentile takes: p95 100, p99 500."""
    return TAIL_SAMPLES * 100 // (100 - percentile)


def _tail(ordered: Sequence[float], percentile: int) -> float | None:
    if len(ordered) < samples_needed(percentile):
        return None
    return quantile(ordered, percentile / 100)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which a share of the sorted samples lies, interpolated."""
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def ratio_interval(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of median(slow) / median(fast); None with too few samples.

    The resampling is seeded, so that one result always gives one report.
    """
    if min(len(slow), len(fast)) < _BOOTSTRAP_MIN_SAMPLES:
        return None
    draw = random.Random(0)
    ratios = sorted(
        statistics.median(draw.choices(slow, k=len(slow)))
        / statistics.median(draw.choices(fast, k=len(fast)))
        for _ in range(_BOOTSTRAP_ROUNDS)
    )
    return quantile(ratios, 0.025), quantile(ratios, 0.975)


def format_ms(value: float) -> str:
    """A duration for people: three digits, ms or s."""
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def format_ratio(value: float) -> str:
    """A factor for people."""
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"
