"""Define what a scenario is."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from bench.validate.judge import Rule


class Stage(enum.StrEnum):
    """On what a scenario runs."""

    NODE = "node"
    CLUSTER = "cluster"
    KUASAR = "kuasar"


@dataclass(frozen=True)
class Scenario:
    """One experiment. machine_kind: qemu, or stand-in where no machine runs. timed: the groups of
    starts whose times are samples.
    """

    name: str
    stage: Stage
    setup: str
    expected: str
    rules: tuple[Rule, ...]
    timed: tuple[str, ...]
    machine_kind: str = "qemu"
