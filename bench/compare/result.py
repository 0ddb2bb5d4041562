"""What a comparison found: for people a table, for programs JSON, with every sample."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentd.cli.tables import Table
from bench.bundle import Sample
from bench.compare.rounds import Side, Sides
from bench.compare.verdict import FALSE_ALARMS, Judged, Rounds, Verdict

# Its own: 1 and 2 are those of programs that break.
EXIT_WORSE = 3


@dataclass(frozen=True)
class Comparison:
    """All of it. steal: the share of processor time that the host took away meanwhile."""

    sides: Sides
    judged: Sequence[Judged]
    rounds: int
    seed: int
    steal: float

    @property
    def worse(self) -> list[str]:
        """What fails the comparison."""
        return [one.name for one in self.judged if one.verdict is Verdict.WORSE]

    @property
    def exit_status(self) -> int:
        """0, or EXIT_WORSE."""
        return EXIT_WORSE if self.worse else 0


def read_thresholds(path: Path, names: set[str]) -> dict[str, float]:
    """For each series its own, or the default."""
    found = tomllib.loads(path.read_text())
    return {name: found["series"].get(name, found["default"]) for name in names}


def verdict_table(judged: Sequence[Judged]) -> Table:
    """One line a series."""
    columns = ["SERIES", "HEAD / BASE", "95 % INTERVAL", "P", "ROUNDS", "THRESHOLD", "VERDICT"]
    rows = [
        [
            one.name, f"{one.ratio:.3f}", f"{one.low:.3f} to {one.high:.3f}", f"{one.p:.2g}",
            str(one.rounds), f"{one.threshold:.0%}", _words(one),
        ]
        for one in judged
    ]  # fmt: skip
    return Table(columns, rows, numeric=frozenset(columns[1:-1]))


def _words(one: Judged) -> str:
    more = f", about {one.more_rounds} more rounds would tell" if one.more_rounds else ""
    return one.verdict.value + more


def missing(sides: Sides) -> list[str]:
    """A line for each series that one side alone could measure."""
    base, head = sides
    return [
        *(_lacks(base, name) for name in sorted(head.rounds.keys() - base.rounds.keys())),
        *(_lacks(head, name) for name in sorted(base.rounds.keys() - head.rounds.keys())),
    ]


def _lacks(side: Side, name: str) -> str:
    times = side.lost.get(name, 0)
    return f"{side.name} lacks {name}: measured {times} times; why is in {side.log}"


def summary(found: Comparison) -> str:
    """The last line for people."""
    said = "worse: " + ", ".join(found.worse) if found.worse else "nothing is worse"
    return (
        f"{said}; {len(found.judged)} series, {found.rounds} rounds, false alarm in at most "
        f"{FALSE_ALARMS:.0%} of comparisons; the host took {found.steal:.1%} of processor time"
    )


def samples_of(found: Comparison) -> Iterator[Sample]:
    """Every sample of every series, of those too that one side lacks: a round for each look."""
    begun_s = min(at_s for side in found.sides for at_s in side.at_s)
    for side in found.sides:
        for series, rounds in side.rounds.items():
            for round_, at_s, value in _numbered(rounds, side.at_s):
                yield Sample(
                    series=series, machine_kind="none", cache="none", unit="us",
                    value=value * 1e6, dims={"side": side.name}, round=round_,
                    at_s=at_s - begun_s,
                )  # fmt: skip


def _numbered(rounds: Rounds, at_s: Sequence[float]) -> Iterator[tuple[int, float, float]]:
    """The number of each look among all, when its round began, a sample of it."""
    for number, looks in enumerate(rounds):
        for look, samples in enumerate(looks):
            for value in samples:
                yield number * len(looks) + look, at_s[number], value


def as_json(found: Comparison) -> dict[str, Any]:
    """Without samples."""
    base, head = (
        {"revision": side.build.revision, "env": dict(side.build.env)} for side in found.sides
    )
    return {
        "base": base,
        "head": head,
        "rounds": found.rounds,
        "seed": found.seed,
        "steal": round(found.steal, 4),
        "series": [{**asdict(one), "verdict": one.verdict.value} for one in found.judged],
        "missing": missing(found.sides),
        "worse": found.worse,
        "exit_status": found.exit_status,
    }
