"""Tell a person what the suites found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.bundle import Sample
from bench.bundle.percentiles import group_samples
from bench.suites.outcomes import Outcomes
from bench.suites.samples import Benchmark, name_of


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
