"""Summarise samples by what they are samples of."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from bench.bundle.samples import Cache, MachineKind, Sample


class Group(NamedTuple):
    """What samples have in common when they may be put together."""

    series: str
    machine_kind: MachineKind
    cache: Cache
    unit: str
    dims: tuple[tuple[str, str], ...]


class Percentiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one group. n: samples with a value, failures: those without; None when there is no value.

    Each is a sample itself: the smallest that at least so many percent do not exceed (nearest
    rank). Few samples carry no tail: the p99 of less than a hundred is their largest.
    """

    series: str
    machine_kind: MachineKind
    cache: Cache
    unit: str
    dims: dict[str, str]
    n: int
    failures: int
    min: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


def nearest_rank(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the sorted values, at least one, that `percent` % of them do not exceed."""
    rank = math.ceil(percent * len(ordered) / 100)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def group_of(sample: Sample) -> Group:
    """Warm, cold caches, machines, stand-ins are never put together."""
    dims = tuple(sorted(sample.dims.items()))
    return Group(sample.series, sample.machine_kind, sample.cache, sample.unit, dims)


def group_samples(samples: Iterable[Sample]) -> dict[Group, list[Sample]]:
    """In the order in which groups first come."""
    found: dict[Group, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[group_of(sample)].append(sample)
    return dict(found)


def summarize_groups(samples: Iterable[Sample]) -> list[Percentiles]:
    """One for each group, in the order in which groups first come."""
    return [_summarize(group, found) for group, found in group_samples(samples).items()]


def _summarize(group: Group, samples: Sequence[Sample]) -> Percentiles:
    ordered = sorted(one.value for one in samples if one.value is not None)

    def at(percent: float) -> float | None:
        return nearest_rank(ordered, percent) if ordered else None

    return Percentiles(
        series=group.series,
        machine_kind=group.machine_kind,
        cache=group.cache,
        unit=group.unit,
        dims=dict(group.dims),
        n=len(ordered),
        failures=len(samples) - len(ordered),
        min=at(0),
        p50=at(50),
        p95=at(95),
        p99=at(99),
        max=at(100),
    )
