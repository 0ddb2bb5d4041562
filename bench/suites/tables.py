"""Tell a person what the suites found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentd.cli.report_stats import samples_needed
from agentd.cli.tables import Table
from bench.suites.outcomes import Outcomes
from bench.suites.samples import Benchmark, Sample, name_of

# What makes a series of its own: samples that differ in one of these never share a percentile.
Key = tuple[str, str, str, str, tuple[tuple[str, str], ...]]


def key_of(sample: Sample) -> Key:
    """Name, dimensions."""
    dims = tuple(sorted(sample.dims.items()))
    return sample.series, sample.machine_kind, sample.cache, sample.unit, dims


def grouped(samples: Sequence[Sample]) -> dict[Key, list[Sample]]:
    """Samples of each series, in the order of the first ones."""
    found: dict[Key, list[Sample]] = {}
    for one in samples:
        found.setdefault(key_of(one), []).append(one)
    return found


def nearest_rank(ordered: Sequence[float], percentile: int) -> float:
    """The smallest sample that at least so many percent of them do not exceed."""
    return ordered[max(0, -(-percentile * len(ordered) // 100) - 1)]


def series_table(samples: Sequence[Sample]) -> Table:
    """A line for each series. A tail that so few samples do not carry is a dash."""
    columns = (
        "series",
        "dimensions",
        "machine",
        "cache",
        "n",
        "failed",
        "p50",
        "p95",
        "p99",
        "unit",
    )
    rows = [_row(key, group) for key, group in sorted(grouped(samples).items())]
    return Table(columns, rows, numeric=frozenset(("n", "failed", "p50", "p95", "p99")))


def _row(key: Key, group: Sequence[Sample]) -> list[str]:
    name, machine, cache, unit, dims = key
    values = sorted(one.value for one in group if one.value is not None)
    words = " ".join(f"{name}={value}" for name, value in dims)
    cells = [_cell(values, percentile) for percentile in (50, 95, 99)]
    failed = str(len(group) - len(values))
    return [name, words, machine, cache, str(len(values)), failed, *cells, unit]


def _cell(values: Sequence[float], percentile: int) -> str:
    needed = 1 if percentile == 50 else samples_needed(percentile)
    if len(values) < needed:
        return "-"
    return f"{nearest_rank(values, percentile):.4g}"


def shortened(benchmarks: Sequence[Benchmark], outcomes: Outcomes) -> list[str]:
    """What this form measured less of, or not at all."""
    lines = []
    for one in benchmarks:
        if one.shortened is not None:
            measured, wanted = one.shortened
            lines.append(f"shortened: {name_of(one.fullname)}: {measured} of {wanted} rounds")
    lines += [f"left out: {name_of(test)}" for test in outcomes.left_out]
    return lines


def failed(samples: Sequence[Sample], tests: Mapping[str, str]) -> list[str]:
    """Every failure in words; those of rounds by series, with the first one's."""
    lines = [f"failed: {name_of(test)}: {why}" for test, why in tests.items()]
    for key, group in grouped(samples).items():
        errors = [one.error for one in group if one.error is not None]
        if errors:
            lines.append(f"failed: {len(errors)} of {len(group)} rounds of {key[0]}: {errors[0]}")
    return lines
