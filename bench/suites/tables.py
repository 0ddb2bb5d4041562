"""Tell a person what the suites found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentd.cli.report_stats import samples_needed
from agentd.cli.tables import Table
from bench.bundle import Percentiles, Sample, summarize_groups
from bench.bundle.percentiles import group_samples
from bench.suites.outcomes import Outcomes
from bench.suites.samples import Benchmark, name_of


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
    groups = sorted(summarize_groups(samples), key=_place)
    rows = [_row(one) for one in groups]
    return Table(columns, rows, numeric=frozenset(("n", "failed", "p50", "p95", "p99")))


def _place(one: Percentiles) -> tuple[str, str, list[tuple[str, str]]]:
    return one.series, one.cache, sorted(one.dims.items())


def _row(one: Percentiles) -> list[str]:
    words = " ".join(f"{name}={value}" for name, value in sorted(one.dims.items()))
    tails = [_tail(one.p95, one.n, 95), _tail(one.p99, one.n, 99)]
    counts = [str(one.n), str(one.failures)]
    return [
        one.series, words, one.machine_kind, one.cache, *counts, _figure(one.p50), *tails, one.unit
    ]  # fmt: skip


def _tail(value: float | None, count: int, percentile: int) -> str:
    return _figure(value) if count >= samples_needed(percentile) else "-"


def _figure(value: float | None) -> str:
    """Four digits, and never as a power of ten."""
    if value is None:
        return "-"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


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
    for group, found in group_samples(samples).items():
        errors = [one.error for one in found if one.error is not None]
        if errors:
            told = f"{len(errors)} of {len(found)} rounds of {group.series}"
            lines.append(f"failed: {told}: {errors[0]}")
    return lines
