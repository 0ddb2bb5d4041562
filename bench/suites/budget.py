"""Decide how many rounds of a series are measured."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

# What the quick form may take in all; the rest is for templates and for reports.
TOTAL_S = 600.0
AROUND_S = 90.0


class Form(enum.StrEnum):
    """How much is measured. SMOKE: one round of everything, to see that it works."""

    SMOKE = "smoke"
    QUICK = "quick"
    FULL = "full"


@dataclass(frozen=True)
class Budget:
    """What a series may take: seconds and rounds of the quick form, rounds of the full one.

    quick: 0 leaves the series to the full form.
    """

    quick_s: float
    quick: int
    full: int

    def rounds(self, form: Form) -> int:
        """How many are wanted."""
        return {Form.SMOKE: min(1, self.quick), Form.QUICK: self.quick, Form.FULL: self.full}[form]


class Allowance:
    """Says of each next round whether it is still measured; the first one always is.

    Time counts from the first round on: what it needs was prepared before.
    """

    def __init__(self, budget: Budget, form: Form, now_s: Callable[[], float]) -> None:
        self.wanted = budget.rounds(form)
        self._limit_s = budget.quick_s if form is Form.QUICK else float("inf")
        self._now_s = now_s
        self._begun_s = 0.0
        self.taken = 0

    def take(self) -> bool:
        """Whether another round is due, which is then counted."""
        if not self.taken:
            self._begun_s = self._now_s()
        elif self.taken >= self.wanted or not self._has_time():
            return False
        self.taken += 1
        return True

    def _has_time(self) -> bool:
        """Whether a round as long as those before it ends in time."""
        spent_s = self._now_s() - self._begun_s
        return spent_s * (self.taken + 1) / self.taken <= self._limit_s
