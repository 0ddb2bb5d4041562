"""Draw the outcomes for people."""

from __future__ import annotations

from collections.abc import Sequence

from agentd.cli.tables import Table, ms
from bench.bundle import Percentiles
from bench.validate.evidence import Evidence, How, how_started
from bench.validate.run import Outcome


def scenario_table(outcomes: Sequence[Outcome], size: str) -> Table:
    """One line each: what was expected, what was seen."""
    rows = [
        (one.name, one.machine_kind, seen(one.evidence), one.verdict, figures(one.evidence))
        for one in outcomes
    ]
    columns = ("SCENARIO", "MACHINES", "SEEN", "VERDICT", "FIGURES")
    return Table(columns, rows, title=f"validation plan, {size} form")


def expected_table(outcomes: Sequence[Outcome]) -> Table:
    """What each sets up, what has to come of it."""
    rows = [(one.name, one.setup, one.expected) for one in outcomes]
    return Table(("SCENARIO", "SET-UP", "EXPECTED PATH"), rows)


def seen(evidence: Evidence) -> str:
    """How the sessions of each group started, with the reasons given."""
    if not evidence.starts:
        return "nothing"
    return "; ".join(
        f"{group}: {_count(evidence, group)}"
        for group in dict.fromkeys(one.group for one in evidence.starts)
    )


def _count(evidence: Evidence, group: str) -> str:
    kinds: dict[str, int] = {}
    for one in evidence.of(group):
        why = one.error or one.reason
        kind = f"{how_started(one).value} ({why})" if why else how_started(one).value
        kinds[kind] = kinds.get(kind, 0) + 1
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def figures(evidence: Evidence) -> str:
    """The facts that are numbers and say something."""
    found = [
        f"{name.replace('_', ' ')} {value:g}"
        for name, value in evidence.facts.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value
    ]
    return ", ".join(found) or "-"


def starts_table(percentiles: Sequence[Percentiles]) -> Table:
    """Times from the request to the first reply, the cold baselines first."""
    ordered = sorted(percentiles, key=lambda one: one.dims["started"] != How.COLD)
    rows = [
        (
            one.dims["scenario"],
            one.dims["group"],
            one.dims["started"],
            one.machine_kind,
            str(one.n),
            str(one.failures),
            *(ms(value) for value in (one.min, one.p50, one.p95, one.p99, one.max)),
        )
        for one in ordered
    ]
    columns = ("SCENARIO", "GROUP", "STARTED", "MACHINES", *_NUMBERS)
    title = "milliseconds from the request for a session to the first reply of its code"
    return Table(columns, rows, title=title, numeric=frozenset(_NUMBERS))


_NUMBERS = ("N", "FAILED", "MIN", "P50", "P95", "P99", "MAX")
