"""Judge counts by a file of budgets."""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class Verdict(enum.Enum):
    """Of one series; only OVER fails."""

    OVER = "over its budget"
    WITHIN = "within its budget"
    UNDER = "below its budget, which can be lowered"
    NONE = "without a budget"


@dataclass(frozen=True)
class Budget:
    """Instructions of a call, by series. margin: from which share on a difference counts.

    python: whose counts they are, for example 3.11; another needs others for the same code.
    """

    python: str
    margin: float
    series: Mapping[str, int]


@dataclass(frozen=True)
class Judged:
    """One series."""

    name: str
    instructions: int
    budget: int
    verdict: Verdict


def read_budget(path: Path) -> Budget:
    """Raises: KeyError when something is missing."""
    found = tomllib.loads(path.read_text())
    return Budget(found["python"], found["margin"], found["series"])


def judge(counts: Mapping[str, float], budget: Budget) -> list[Judged]:
    """Every series that was counted."""
    return [
        Judged(name, round(count), budget.series.get(name, 0), _verdict(name, count, budget))
        for name, count in counts.items()
    ]


def _verdict(name: str, count: float, budget: Budget) -> Verdict:
    if name not in budget.series:
        return Verdict.NONE
    share = count / budget.series[name] - 1
    if share > budget.margin:
        return Verdict.OVER
    return Verdict.UNDER if share < -budget.margin else Verdict.WITHIN


def write_budget(path: Path, python: str, margin: float, judged: Sequence[Judged]) -> None:
    """The counts become the budget."""
    lines = [
        "# Instructions of one call, as `make bench-instructions` counts them.",
        "# Written by `python -m bench.instructions --accept`.",
        f'python = "{python}"',
        "# The repeated counts of one build differ by far less.",
        f"margin = {margin}",
        "",
        "[series]",
        *(f'"{one.name}" = {one.instructions}' for one in judged),
    ]
    path.write_text("\n".join(lines) + "\n")
