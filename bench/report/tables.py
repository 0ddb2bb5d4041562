"""List groups with their percentiles, for people, for pages in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from agentd.cli.tables import Table
from bench.bundle import Group
from bench.report.figures import Measured
from bench.report.words import clean, figure, name_dims, tail

_FIGURES = ("N", "FAILED", "MIN", "P50", "P95", "P99", "MAX")


def series_table(measured: Sequence[Measured]) -> Table:
    """A row for each group."""
    columns = ("SERIES", "DIMENSIONS", "MACHINE", "CACHE", *_FIGURES, "UNIT")
    rows = [_series_row(one, one.group) for one in measured]
    return Table(columns, rows, numeric=frozenset(_FIGURES))


def _series_row(one: Measured, group: Group) -> tuple[str, ...]:
    return (
        clean(group.series),
        name_dims(group),
        group.machine_kind,
        group.cache,
        str(one.n),
        str(len(one.errors)),
        figure(one.at(0)),
        figure(one.at(50)),
        tail(one.at(95), one.n, 95),
        tail(one.at(99), one.n, 99),
        figure(one.at(100)),
        clean(group.unit),
    )


def format_markdown(table: Table) -> str:
    """The table for a page of the documentation."""
    rules = ["---:" if column in table.numeric else "---" for column in table.columns]
    heads = [column.lower() for column in table.columns]
    lines = [" | ".join(cells) for cells in (heads, rules, *table.rows)]
    return "".join(f"| {line} |\n" for line in lines)
