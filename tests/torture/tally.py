"""Add up what a run saw, and judge it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from rich.table import Table

from .plan import STEPS
from .standin import Said

_NS_PER_MS: Final = 1_000_000
# What has to be nothing.
FAULTS: Final = (
    "wrong_bytes", "lost_vms", "leaked_fds", "leaked_processes", "leaked_files", "broken_starts",
)  # fmt: skip


@dataclass
class Tally:
    """What a run saw.

    lost: why each machine was. leaks: who had which descriptor too many. broken: page servers that
    ended by themselves. logs: directory of the logs, if they say why it failed.
    """

    seed: int
    machines: int
    deaths: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    methods: Counter[str] = field(default_factory=Counter)
    retired: int = 0
    lives: int = 0
    hand_overs_repeated: int = 0
    wrong_bytes: int = 0
    leaks: list[str] = field(default_factory=list)
    leaked_processes: int = 0
    leaked_files: int = 0
    touches: int = 0
    races: int = 0
    removed_pages: int = 0
    pages_verified: int = 0
    max_stall_ns: int = 0
    elapsed_s: float = 0.0
    logs: str = ""

    def add(self, said: Said) -> None:
        """An answer to `random` or `verify`."""
        self.wrong_bytes += said.wrong
        self.touches += said.touches
        self.races += said.races
        self.removed_pages += said.removed_pages
        self.pages_verified += said.pages
        self.max_stall_ns = max(self.max_stall_ns, said.max_ns, said.max_remove_ns)

    def compare_fds(self, whose: str, may_have: Counter[str], has: Counter[str]) -> None:
        """Note every descriptor of a process that it has too many."""
        self.leaks += [f"{whose}: {what}" for what in (has - may_have).elements()]

    def report(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "seed": self.seed,
            "machines": self.machines,
            "deaths": self.deaths.total(),
            "deaths_by_step": {step: self.deaths[step] for step in (*STEPS, *self._others())},
            "wrong_bytes": self.wrong_bytes,
            "lost_vms": len(self.lost),
            "leaked_fds": len(self.leaks),
            "leaked_processes": self.leaked_processes,
            "leaked_files": self.leaked_files,
            "broken_starts": len(self.broken),
            "pages_verified": self.pages_verified,
            "max_stall_ms": round(self.max_stall_ns / _NS_PER_MS, 1),
            "hand_overs_repeated": self.hand_overs_repeated,
            "lives": self.lives,
            "retired": self.retired,
            "touches": self.touches,
            "races": self.races,
            "removed_pages": self.removed_pages,
            "methods": dict(self.methods),
            "elapsed_s": round(self.elapsed_s, 1),
        }

    def _others(self) -> list[str]:
        return sorted(set(self.deaths) - set(STEPS))


def has_failed(report: dict[str, Any]) -> bool:
    """Whether anything is not as it has to be, or nothing was looked at."""
    return any(report[name] for name in FAULTS) or not report["pages_verified"]


def table_of(report: dict[str, Any]) -> Table:
    """For people."""
    table = Table("what", "count", title=f"torture, seed {report['seed']}")
    for name, value in report.items():
        if isinstance(value, dict):
            for key, count in value.items():
                table.add_row(f"{name}: {key}", str(count))
        else:
            mark = " [red]must be 0[/red]" if name in FAULTS and value else ""
            table.add_row(name, f"{value}{mark}")
    return table
