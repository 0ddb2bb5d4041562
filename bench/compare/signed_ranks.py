"""Judge paired differences by their signed ranks: no assumption on the shape of the noise.

Wilcoxon's test (Wilcoxon 1945, Biometrics Bulletin 1:80) asks how often chance alone would give
ranks as one-sided as these; Hodges and Lehmann's estimate (1963, Ann. Math. Stat. 34:598) is the
shift that makes them even, and its interval holds every shift that the same test would not refuse.
One sample that the machine stalled in moves neither: it is one rank, however late it came.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from statistics import NormalDist

EXACT_TO = 60


@dataclass(frozen=True)
class Shift:
    """By how much pairs differ. p: of a shift at least as one-sided, were there none."""

    estimate: float
    low: float
    high: float
    p: float
    pairs: int


def judge_shift(differences: Sequence[float], confidence: float) -> Shift:
    """The typical difference, its interval, and how easily chance gives it.

    differences: one for each pair, in any unit in which they may be averaged (logarithms of
    ratios). Raises: ValueError without any.
    """
    if not differences:
        raise ValueError("no pairs: nothing was measured in both builds")
    averages = sorted(_walsh_averages(differences))
    skipped = _critical_rank(len(differences), 1.0 - confidence)
    inner = averages[skipped : len(averages) - skipped] or [averages[0], averages[-1]]
    return Shift(_middle(averages), inner[0], inner[-1], two_sided_p(differences), len(differences))


def two_sided_p(differences: Sequence[float]) -> float:
    """The chance of a rank sum at least this one-sided if each sign were a coin's."""
    moved = [value for value in differences if value != 0.0]
    if not moved:
        return 1.0
    ranks = _doubled_ranks([abs(value) for value in moved])
    positive = sum(rank for rank, value in zip(ranks, moved, strict=True) if value > 0)
    lesser = min(positive, sum(ranks) - positive)
    return min(1.0, 2.0 * _share_up_to(ranks, lesser))


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p as it counts among the others: alpha bounds the chance of any false alarm.

    Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    scaled = [min(1.0, p_values[i] * (len(order) - place)) for place, i in enumerate(order)]
    raised = accumulate(scaled, max)
    found = dict(zip(order, raised, strict=True))
    return [found[index] for index in range(len(p_values))]


def _walsh_averages(values: Sequence[float]) -> list[float]:
    return [(a + b) / 2 for i, a in enumerate(values) for b in values[i:]]


def _middle(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _doubled_ranks(sizes: Sequence[float]) -> list[int]:
    """Ranks times two: equal sizes share their mean rank, which may be a half."""
    ordered = sorted(sizes)
    return [bisect_left(ordered, size) + bisect_right(ordered, size) + 1 for size in sizes]


def _share_up_to(ranks: Sequence[int], limit: int) -> float:
    """Of all choices of signs, those whose positive ranks add up to at most `limit`."""
    if len(ranks) > EXACT_TO:
        return _normal_share(ranks, limit)
    return math.ldexp(_ways_up_to(tuple(sorted(ranks)))[limit], -len(ranks))


@lru_cache(maxsize=256)
def _ways_up_to(ranks: tuple[int, ...]) -> list[int]:
    """For each sum, how many choices of signs give at most it."""
    ways = [1] + [0] * sum(ranks)
    for rank in ranks:
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    return list(accumulate(ways))


def _normal_share(ranks: Sequence[int], limit: int) -> float:
    """The same for many pairs, where the sum is as good as normal."""
    mean, deviation = sum(ranks) / 2, math.sqrt(sum(rank * rank for rank in ranks)) / 2
    # Half a step of the sum, which moves by two: ranks are doubled.
    return 0.5 * math.erfc((mean - limit - 1) / (deviation * math.sqrt(2)))


@lru_cache
def _critical_rank(pairs: int, alpha: float) -> int:
    """How many averages an interval of confidence 1 - alpha leaves out at each end."""
    if pairs > EXACT_TO:
        deviation = math.sqrt(pairs * (pairs + 1) * (2 * pairs + 1) / 24)
        return int(pairs * (pairs + 1) / 4 + NormalDist().inv_cdf(alpha / 2) * deviation)
    ranks = [2 * rank for rank in range(1, pairs + 1)]
    limit = 0
    while 2.0 * _share_up_to(ranks, 2 * limit) <= alpha:
        limit += 1
    # Sums below `limit` are refused; the interval ends at the first average that is not.
    return max(0, limit - 1)
