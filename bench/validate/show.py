"""Draw the outcomes for people."""

from __future__ import annotations

from collections.abc import Sequence

from agentd.cli.tables import Table
from bench.validate.evidence import Evidence, how_started
from bench.validate.run import Outcome
from bench.validate.scenario import Scenario


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


def groups_timed(scenarios: Sequence[Scenario]) -> set[tuple[str, str]]:
    """Scenario and group of every start whose time counts."""
    return {(one.name, group) for one in scenarios for group in one.timed}
