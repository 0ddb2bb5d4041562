"""Print tables: drawn on a terminal, aligned plain text elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from agentd.units import MIB

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_STYLES = {
    "ready": "green",
    "ok": "green",
    "warn": "yellow",
    "building": "yellow",
    "starting": "yellow",
    "ending": "yellow",
    "fail": "bold red",
    "failed": "bold red",
    "error": "bold red",
}


@dataclass(frozen=True)
class Table:
    """Rows under headings. numeric: headings of the columns to align right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    numeric: frozenset[str] = frozenset()
    empty: str = "none"


def is_terminal(stream: TextIO) -> bool:
    """Whether to draw for people; FORCE_COLOR says yes to a stream that is none."""
    return stream.isatty() or bool(os.environ.get("FORCE_COLOR"))


def print_table(table: Table) -> None:
    """Print a table on stdout."""
    if is_terminal(sys.stdout):
        new_console(sys.stdout).print(draw(table))
    else:
        sys.stdout.write(format_plain(table))


def new_console(stream: TextIO) -> Console:
    """A rich console on a stream; it obeys NO_COLOR."""
    from rich.console import Console

    return Console(file=stream, highlight=False, force_terminal=is_terminal(stream))


def draw(table: Table) -> RenderableType:
    """The table for a terminal."""
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    if not table.rows:
        return Text(table.empty, style="dim")
    drawn = Drawn(
        title=table.title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False
    )
    for column in table.columns:
        drawn.add_column(column, justify="right" if column in table.numeric else "left")
    for row in table.rows:
        drawn.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return drawn


def format_plain(table: Table) -> str:
    """The table as aligned text, one row a line, for files and pipes."""
    if not table.rows:
        return f"{table.empty}\n"
    lines = [list(table.columns), *([_one_line(cell) for cell in row] for row in table.rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    right = [column in table.numeric for column in table.columns]
    text = []
    for line in lines:
        cells = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text) + "\n"


def _one_line(cell: str) -> str:
    return " ".join(cell.split())


def mib(size_bytes: int) -> str:
    """A size in MiB."""
    return f"{size_bytes / MIB:.1f}"


def ms(value: float | None) -> str:
    """A duration in milliseconds, or a dash."""
    return "-" if value is None else f"{value:.1f}"


def age(since: str, now: datetime) -> str:
    """How long ago an RFC 3339 time was, in the largest fitting unit."""
    try:
        then = datetime.fromisoformat(since)
    except ValueError:
        return "-"
    seconds = max(0.0, (now - then.replace(tzinfo=then.tzinfo or UTC)).total_seconds())
    return span(seconds)


def span(seconds: float) -> str:
    """A duration in the largest fitting unit."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.0f}s"
