"""Define what a page, a terminal both show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentd.cli.tables import Table


@dataclass(frozen=True)
class Section:
    """words: paragraphs. picture: HTML, for the page alone. drawn: lines, for a terminal alone.

    is_long: the page folds the tables.
    """

    title: str
    words: Sequence[str] = ()
    picture: str = ""
    drawn: Sequence[str] = ()
    tables: Sequence[Table] = ()
    items: Sequence[str] = ()
    is_long: bool = False
