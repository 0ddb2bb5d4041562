"""Say of each promise whether it was kept."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Promise:
    """One line of the table. is_kept: whether `measured` satisfies `promised`."""

    name: str
    promised: str
    measured: str
    is_kept: bool
    samples: dict[str, Any] = field(default_factory=dict)


def show(promises: list[Promise]) -> None:
    """The table for people."""
    width = max(len(one.name) for one in promises)
    for one in promises:
        verdict = "kept" if one.is_kept else "NOT KEPT"
        print(f"{one.name:<{width}}  {one.promised:>12}  {verdict:>8}  {one.measured}")
    if not all(one.is_kept for one in promises):
        print("a promise is not kept; if the machine was busy, run it again", file=sys.stderr)
