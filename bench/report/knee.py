"""Find the knee: how many at once bring nearly as much as any number does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SHARE: Final = 0.9
LEVELS: Final = 3

RULE: Final = (
    f"The knee is the smallest number at once that reaches {SHARE:.0%} of the highest throughput "
    "measured. It is named only where a larger number was measured as well, and at least "
    f"{LEVELS} numbers in all."
)


@dataclass(frozen=True)
class Level:
    """What so many at once brought in a second."""

    at_once: int
    per_s: float


@dataclass(frozen=True)
class Knee:
    """above: the next smaller number that was measured, 0 if none: the knee is beyond it."""

    at_once: int
    per_s: float
    above: int


def find_knee(levels: Sequence[Level]) -> Knee | None:
    """None where throughput still grew at the largest number, or the levels are too few."""
    ordered = sorted(levels, key=lambda level: level.at_once)
    if len({level.at_once for level in ordered}) < LEVELS:
        return None
    enough = SHARE * max(level.per_s for level in ordered)
    number = next(i for i, level in enumerate(ordered) if level.per_s >= enough)
    if enough <= 0 or number == len(ordered) - 1:
        return None
    found = ordered[number]
    return Knee(found.at_once, found.per_s, ordered[number - 1].at_once if number else 0)
