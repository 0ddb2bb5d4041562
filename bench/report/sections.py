"""Decide what the report says of a bundle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from agentd.cli.tables import Table
from bench.bundle import Bundle
from bench.report.comparison import show_comparison
from bench.report.distributions import show_families, show_memory
from bench.report.figures import Measured, find_curves, find_waterfalls, measure_groups
from bench.report.notes import plan_notes
from bench.report.section import Section
from bench.report.tables import series_table
from bench.report.throughput import show_throughput
from bench.report.waterfall import show_waterfall
from bench.report.words import clean, name_group

_ERRORS = 5


def plan_sections(
    bundle: Bundle, problems: Sequence[str] = (), base: Bundle | None = None
) -> list[Section]:
    """Everything, what is wrong first. problems: what `verify_bundle` found."""
    measured = measure_groups(bundle.samples)
    return [
        *_problems(problems),
        *_failures(measured),
        *_promises(bundle),
        *map(show_waterfall, find_waterfalls(bundle.samples)),
        *show_throughput(find_curves(measured)),
        *show_memory(measured),
        *(show_comparison(base, bundle) if base else []),
        *show_families(measured),
        _every_series(measured),
        _machine(bundle),
        Section(
            "What these figures do not tell", items=plan_notes(bundle.manifest, bundle.samples)
        ),
    ]


def _problems(problems: Sequence[str]) -> Iterator[Section]:
    if problems:
        words = ["Do not rely on this page: the bundle is not what it says it is."]
        yield Section("The bundle is not valid", words, items=[clean(one) for one in problems])


def _failures(measured: Sequence[Measured]) -> Iterator[Section]:
    failed = [one for one in measured if one.errors]
    if not failed:
        return
    count = sum(len(one.errors) for one in failed)
    rows = [
        (name_group(one.group), f"{len(one.errors)} of {len(one.errors) + one.n}", _reasons(one))
        for one in failed
    ]
    words = ["They have no time, so no figure below contains them."]
    yield Section(
        f"Failed samples: {count}", words, tables=[Table(("SERIES", "FAILED", "WHY"), rows)]
    )


def _reasons(one: Measured) -> str:
    found: dict[str, int] = defaultdict(int)
    for error in one.errors:
        found[clean(error) or "it does not say"] += 1
    ordered = sorted(found.items(), key=lambda item: -item[1])
    told = [f"{error} ({count}x)" if count > 1 else error for error, count in ordered[:_ERRORS]]
    rest = [f"{len(ordered) - _ERRORS} other reasons"] if len(ordered) > _ERRORS else []
    return "; ".join([*told, *rest])


def _promises(bundle: Bundle) -> Iterator[Section]:
    if not bundle.promises:
        return
    kept = sum(one.is_kept for one in bundle.promises)
    rows = [
        (clean(one.name), clean(one.promised), clean(one.measured), "yes" if one.is_kept else "NO")
        for one in bundle.promises
    ]
    yield Section(
        f"{kept} of {len(rows)} limits kept",
        tables=[Table(("WHAT", "LIMIT", "MEASURED", "KEPT"), rows)],
    )


def _every_series(measured: Sequence[Measured]) -> Section:
    words = ["Nearest ranks of all samples of a row, never means of means."]
    return Section("Every series", words, tables=[series_table(measured)], is_long=True)


def _machine(bundle: Bundle) -> Section:
    manifest = bundle.manifest
    machine = manifest.machine
    facts = {
        "command": manifest.command,
        "began": manifest.made_at,
        "took": f"{manifest.took_s:.0f} s",
        "commit": manifest.commit + (" and files that differ" if manifest.is_dirty else ""),
        "processor": f"{machine.cpu}, {machine.cores} of them",
        "memory": f"{machine.memory_mib} MiB",
        "virtual": machine.virtualized,
        "taken by the host": f"{manifest.steal_share:.1%} of the processor time",
        **manifest.versions,
    }
    rows = [(clean(name), clean(value)) for name, value in facts.items() if value]
    return Section("Where it was measured", tables=[Table(("FACT", "VALUE"), rows)])


def headline(bundle: Bundle) -> str:
    """How much there is, in a line."""
    failed = sum(one.error is not None for one in bundle.samples)
    return (
        f"{len(bundle.samples)} samples, {failed} failed; {clean(bundle.manifest.command)}, "
        f"{clean(bundle.manifest.made_at)}"
    )
