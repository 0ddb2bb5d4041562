"""Decide from a seed how machines live, when the page server dies, and at what."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final, Literal

STEPS: Final = ("receive", "journal", "copy", "remove-read", "remove-recorded", "wake")
# From outside: at a random time while it serves, while it starts.
SERVING: Final = "serving"
STARTING: Final = "starting"
# No death: it is asked to end, as for a new version.
RETIRED: Final = "retired"

# Of all deaths; the rest come from outside, by halves.
_STEP_SHARE: Final = 0.11
_RETIRED_SHARE: Final = 0.03
_COLD_SHARE: Final = 0.1
_SERVING_S: Final = (0.0, 0.08)
_STARTING_S: Final = (0.0, 0.02)
# How often a step is passed at most before the death; many small numbers, few large ones.
_MOST_PASSES: Final = {
    "receive": 400, "journal": 2, "copy": 600, "remove-read": 40, "remove-recorded": 40, "wake": 16,
}  # fmt: skip


@dataclass(frozen=True)
class Death:
    """One end of a page server.

    step: of STEPS, where it kills itself the `passes`-th time; or SERVING, STARTING, RETIRED: after
    `after_s`. is_cold: the image has left the page cache when its successor starts.
    """

    step: str
    passes: int = 1
    after_s: float = 0.0
    is_cold: bool = False

    @property
    def kill(self) -> str:
        """As SNAP_PAGER_KILL has it."""
        return f"{self.step}:{self.passes}" if self.step in STEPS else ""


def plan_deaths(seed: int, count: int) -> list[Death]:
    """`count` deaths in random order, and some retirements more."""
    dice = random.Random(f"{seed}-deaths")
    each = math.ceil(count * _STEP_SHARE)
    steps = [step for step in STEPS for _ in range(each)][:count]
    outside = [SERVING if index % 2 else STARTING for index in range(count - len(steps))]
    kinds = steps + outside + [RETIRED] * round(count * _RETIRED_SHARE)
    dice.shuffle(kinds)
    return [_plan_death(dice, kind) for kind in kinds]


def _plan_death(dice: random.Random, kind: str) -> Death:
    is_cold = dice.random() < _COLD_SHARE
    if kind in STEPS:
        passes = math.floor(_MOST_PASSES[kind] ** dice.random())
        return Death(kind, passes=passes, is_cold=is_cold)
    limits = _STARTING_S if kind == STARTING else _SERVING_S
    return Death(kind, after_s=dice.uniform(*limits), is_cold=is_cold)


Dialect = Literal["firecracker", "firecracker-old", "kuasar", "memfd"]
DIALECTS: Final[tuple[Dialect, ...]] = ("firecracker", "firecracker-old", "kuasar", "memfd")


@dataclass(frozen=True)
class Life:
    """How one machine lives.

    is_holding: its monitor keeps the userfaultfd; else only the keeper does. batches, touches: what
    it does. is_killed: it dies in the middle of a batch, `killed_after_s` into it. has_set: it
    starts with a working set. is_cold: what it starts from has left the page cache.
    """

    dialect: Dialect
    seed: int
    is_holding: bool
    options: tuple[str, ...]
    batches: int
    touches: int
    is_killed: bool
    killed_after_s: float
    has_set: bool
    is_cold: bool


def plan_life(seed: int, slot: int, generation: int) -> Life:
    """Neighbouring slots differ in dialect and in who keeps their descriptors."""
    dice = random.Random(f"{seed}-{slot}-{generation}")
    dialect = DIALECTS[(slot + generation) % len(DIALECTS)]
    is_holding = (slot // len(DIALECTS)) % 2 == 0
    options: tuple[str, ...] = () if is_holding else ("--no-hold",)
    if dialect == "firecracker-old":
        options += ("--closes",)
    elif dialect == "firecracker" and dice.random() < 0.5:
        options += ("--split", dice.choice(("first", "last", "late")))
    return Life(
        dialect=dialect,
        seed=dice.randrange(1, 2**62),
        is_holding=is_holding,
        options=options,
        batches=dice.randrange(2, 12),
        touches=dice.choice((100, 400, 1000)),
        is_killed=dice.random() < 0.25,
        killed_after_s=dice.uniform(0.0, 0.05),
        has_set=dice.random() < 0.5,
        is_cold=dice.random() < 0.25,
    )
