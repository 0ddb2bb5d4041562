"""Pick what the report shows out of samples."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.bundle import Group, Sample, nearest_rank
from bench.bundle.percentiles import group_samples
from bench.report.knee import Level

STAGE = "stage"
MEMORY_UNITS = ("MiB",)
# Dimensions that say how many there were at once.
TOGETHER, CLIENTS = "together", "clients"


@dataclass(frozen=True)
class Measured:
    """A group's values, sorted, and why others have none."""

    group: Group
    ordered: Sequence[float]
    errors: Sequence[str]

    @property
    def n(self) -> int:
        """How many values there are."""
        return len(self.ordered)

    def at(self, percent: float) -> float | None:
        """By nearest rank; None without a value."""
        return nearest_rank(self.ordered, percent) if self.ordered else None

    @property
    def family(self) -> str:
        """What is before the first dot of the series: groups to show beside each other."""
        return self.group.series.partition(".")[0]


@dataclass(frozen=True)
class Waterfall:
    """The stages of the round whose last stage ended as that of half of all rounds.

    stages: name, begin, end since the request. rounds: how many have every stage; left_out: others.
    ends_p50: of each stage, over all whole rounds; these are no round's.
    """

    group: Group
    round: int
    stages: Sequence[tuple[str, float, float]]
    ends_p50: Mapping[str, float]
    rounds: int
    left_out: int

    @property
    def total(self) -> float:
        """When the last stage was over."""
        return self.stages[-1][2]


@dataclass(frozen=True)
class Curve:
    """Throughput of one series, smallest number at once first."""

    name: Group
    levels: Sequence[Level]
    rounds: Sequence[int]


def measure_groups(samples: Iterable[Sample]) -> list[Measured]:
    """In the order in which groups first come."""
    return [_measure(group, found) for group, found in group_samples(samples).items()]


def _measure(group: Group, samples: Sequence[Sample]) -> Measured:
    values = sorted(one.value for one in samples if one.value is not None)
    return Measured(group, values, [one.error for one in samples if one.error is not None])


def find_waterfalls(samples: Iterable[Sample]) -> list[Waterfall]:
    """Of every series `….stage` whose samples say the stage, each the time since the request."""
    found: dict[Group, dict[int, dict[str, float | None]]] = defaultdict(dict)
    for group, members in group_samples(samples).items():
        stage = dict(group.dims).get(STAGE)
        if stage is None or not group.series.endswith(f".{STAGE}"):
            continue
        rounds = found[_without(group, STAGE)]
        for one in members:
            rounds.setdefault(one.round, {})[stage] = one.value
    made = (_waterfall(group, rounds) for group, rounds in found.items())
    return [one for one in made if one is not None]


def _without(group: Group, *names: str) -> Group:
    return group._replace(dims=tuple(one for one in group.dims if one[0] not in names))


def _waterfall(group: Group, rounds: Mapping[int, dict[str, float | None]]) -> Waterfall | None:
    stages = {name for ends in rounds.values() for name in ends}
    whole = {number: _ends(ends) for number, ends in rounds.items() if _ends(ends).keys() == stages}
    if not whole:
        return None
    ordered = sorted(whole, key=lambda number: max(whole[number].values()))
    middle = ordered[(len(ordered) - 1) // 2]
    names = sorted(
        stages, key=lambda name: statistics.median_low([w[name] for w in whole.values()])
    )
    ends = [0.0, *(whole[middle][name] for name in names)]
    return Waterfall(
        group=group,
        round=middle,
        stages=[
            (name, begin, end) for name, (begin, end) in zip(names, pairwise(ends), strict=True)
        ],
        ends_p50={name: statistics.median_low([w[name] for w in whole.values()]) for name in names},
        rounds=len(whole),
        left_out=len(rounds) - len(whole),
    )


def _ends(found: Mapping[str, float | None]) -> dict[str, float]:
    return {name: end for name, end in found.items() if end is not None}


def find_curves(measured: Iterable[Measured]) -> list[Curve]:
    """Of series that time so many together, or count so many clients' sessions a second."""
    found: dict[Group, dict[int, tuple[float, int]]] = defaultdict(dict)
    for one in measured:
        level = _level(one)
        if level is not None:
            # Where one number has several loads, the last one measured counts.
            group = _without(one.group, TOGETHER, CLIENTS, "load")
            found[group][level.at_once] = (level.per_s, one.n)
    return [_curve(group, levels) for group, levels in found.items()]


def _curve(group: Group, levels: Mapping[int, tuple[float, int]]) -> Curve:
    ordered = sorted(levels.items())
    points = [Level(at_once, per_s) for at_once, (per_s, _) in ordered]
    return Curve(group, points, [rounds for _, (_, rounds) in ordered])


_MS = {"ms": 1.0, "s": 1e3, "us": 1e-3}


def _level(one: Measured) -> Level | None:
    """A `….session` is one of those together: not the time of all."""
    dims, middle = dict(one.group.dims), one.at(50)
    number = dims.get(TOGETHER) or dims.get(CLIENTS) or ""
    if middle is None or middle <= 0 or not (number.isascii() and number.isdigit()):
        return None
    at_once, unit = int(number[:9]), one.group.unit
    if unit == "1/s":
        return Level(at_once, middle)
    if unit in _MS and TOGETHER in dims and not one.group.series.endswith(".session"):
        return Level(at_once, at_once * 1e3 / (middle * _MS[unit]))
    return None


@dataclass(frozen=True)
class Change:
    """One group in both bundles."""

    base: Measured
    here: Measured

    @property
    def ratio(self) -> float | None:
        """Of the medians, here to base; None where one is missing or not above 0."""
        base, here = self.base.at(50), self.here.at(50)
        return here / base if base and here and base > 0 and here > 0 else None


def match_groups(
    base: Sequence[Measured], here: Sequence[Measured]
) -> tuple[list[Change], list[Group], list[Group]]:
    """What both have, what only the base has, what only this one has."""
    old, new = {one.group: one for one in base}, {one.group: one for one in here}
    both = [Change(old[group], one) for group, one in new.items() if group in old]
    return both, [one for one in old if one not in new], [one for one in new if one not in old]
