"""Judge every quantity of a run."""

from __future__ import annotations

from dataclasses import dataclass

from bench.soak.run import Run
from bench.soak.trend import Trend, judge
from bench.soak.watch import QUANTITIES, Quantity


@dataclass(frozen=True)
class Verdict:
    """values: of every round. starts: rounds at which its process was replaced."""

    quantity: Quantity
    values: tuple[float, ...]
    starts: tuple[int, ...]
    trend: Trend

    @property
    def is_bad(self) -> bool:
        """It grows, and it is this node's alone."""
        return self.quantity.is_ours and self.trend.is_growing

    @property
    def word(self) -> str:
        """For people."""
        if not self.quantity.is_ours:
            return "told"
        if self.trend.p is None:
            return "too few samples"
        return "grows" if self.trend.is_growing else "flat"


def judge_run(run: Run) -> list[Verdict]:
    """In the order of QUANTITIES."""
    return [_judge(run, quantity) for quantity in QUANTITIES]


def has_failed(run: Run, verdicts: list[Verdict]) -> bool:
    """Anything went wrong, or grows."""
    return bool(run.failures) or any(one.is_bad for one in verdicts)


def _judge(run: Run, quantity: Quantity) -> Verdict:
    values = tuple(sample[quantity.name] for sample in run.samples)
    starts = tuple(run.lives.get(quantity.lives_with, [0]))
    ends = (*starts[1:], len(values))
    lives = [values[first:last] for first, last in zip(starts, ends, strict=True)]
    return Verdict(quantity, values, starts, judge(lives, quantity.allowed))
