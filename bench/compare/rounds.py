"""Run the suites of two builds in turn, so that what the machine does falls on both alike."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from agentd.errors import ErrorCode, PermanentError
from bench.compare.builds import Build
from bench.compare.process import last_words, running
from bench.compare.turns import take_turns
from bench.suites.samples import series_of

# Of each series the samples of each look.
Samples = dict[str, list[list[float]]]

# What disturbs one look on one side is outvoted by the others.
LOOKS = 8
LOOK_S = 0.02


@dataclass
class Side:
    """One build and what was measured of it.

    rounds: of each series, of each round, of each look, the samples.
    at_s: when each round began, of a clock that both sides share. lost: series that it measured in
    some rounds only, in how many.
    """

    name: str
    build: Build
    log: Path
    rounds: dict[str, list[list[list[float]]]] = field(default_factory=dict)
    at_s: list[float] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)


class _Stats(msgspec.Struct):
    data: list[float]


class _Benchmark(msgspec.Struct):
    fullname: str
    stats: _Stats


class _Report(msgspec.Struct):
    benchmarks: list[_Benchmark]


Sides = tuple[Side, Side]
Measure = Callable[[Sides, random.Random], Sequence[Samples]]


def run_in_turn(
    sides: Sides, rounds: int, seed: int, measure: Measure, tell: Callable[[int], None]
) -> None:
    """Measure both sides `rounds` times; the lot says which comes first.

    The lot makes the judgement exact: were the builds equal, either of a pair could as well have
    been the other, however the machine changed meanwhile. measure: both sides once, in the order of
    the lot; what came of each. tell: called after each round.
    """
    draw = random.Random(seed)
    for number in range(rounds):
        at_s = time.monotonic()
        for side, found in zip(sides, measure(sides, draw), strict=True):
            side.at_s.append(at_s)
            for name, looks in found.items():
                side.rounds.setdefault(name, []).append(looks)
        tell(number + 1)
    wanted = _count_looks(sides)
    for side in sides:
        _drop_uneven(side, rounds, wanted)


def _count_looks(sides: Sides) -> dict[str, int]:
    """Of each series, how many make a round: as many as in any."""
    counts: dict[str, int] = {}
    for side in sides:
        for name, rounds in side.rounds.items():
            counts[name] = max(counts.get(name, 0), *map(len, rounds))
    return counts


def _drop_uneven(side: Side, rounds: int, looks: dict[str, int]) -> None:
    """A series that failed in some rounds has no partner for others: it is lost, not shorter."""
    for name, found in side.rounds.items():
        whole = sum(len(one) == looks[name] for one in found)
        if whole != rounds:
            side.lost[name] = whole
    for name in side.lost:
        del side.rounds[name]


def measure_suites(
    sides: Sides, draw: random.Random, suites: Sequence[str], form: str = ""
) -> list[Samples]:
    """Run the suites of that name, or all, once on each side, in turn: seconds, by series.

    form: of the series that need more than a processor; they are left out without one.
    Raises: PermanentError with pytest's last words when nothing was measured.
    """
    with ExitStack() as started:
        runs = {
            side.name: started.enter_context(_pytest(side, suites, form))
            for side in draw.sample(sides, len(sides))
        }
        take_turns([run.link for run in runs.values()], draw)
        statuses = {name: run.process.wait() for name, run in runs.items()}
    return [_samples_of(side, statuses[side.name]) for side in sides]


@dataclass(frozen=True)
class _Run:
    process: subprocess.Popen[bytes]
    link: socket.socket


@contextmanager
def _pytest(side: Side, suites: Sequence[str], form: str) -> Iterator[_Run]:
    """The suites of one side, which wait for their turn; ended with the block."""
    _report_of(side).unlink(missing_ok=True)
    ours, theirs = socket.socketpair()
    argv = _argv(side, suites, form, theirs.fileno())
    tree, env = side.build.tree, side.build.variables
    with (
        ours,
        theirs,
        side.log.open("ab") as words,
        running(argv, tree, env, words.fileno(), also=theirs.fileno()) as process,
    ):
        theirs.close()
        yield _Run(process, ours)


def _argv(side: Side, suites: Sequence[str], form: str, link: int) -> list[str | Path]:
    directory = side.build.tree / "bench" / "suites"
    files = [directory / f"test_{name}.py" for name in suites] or [directory]
    return [
        side.build.python, "-m", "pytest", "-q", "-c", directory / "pytest.ini", *files,
        "--continue-on-collection-errors", f"--benchmark-json={_report_of(side)}",
        f"--benchmark-max-time={LOOK_S}", f"--looks={LOOKS}", f"--turns={link}",
        *([f"--form={form}"] if form else []),
    ]  # fmt: skip


def _report_of(side: Side) -> Path:
    return side.log.with_suffix(".samples.json")


def _samples_of(side: Side, status: int) -> Samples:
    report = _report_of(side)
    found = read_report(report.read_bytes()) if report.exists() else {}
    if not found:
        raise PermanentError(
            ErrorCode.INTERNAL,
            f"measuring {side.name}, {side.build.revision[:12]}: pytest ended with {status} and no "
            f"samples: {last_words(side.log)}",
            hint=f"all of its words are in {side.log}",
        )
    return found


def read_report(raw: bytes) -> Samples:
    """The samples in pytest-benchmark's file, in seconds, by series. Raises: MsgspecError."""
    found: Samples = {}
    for one in msgspec.json.decode(raw, type=_Report).benchmarks if raw else ():
        found.setdefault(series_of(one.fullname), []).append(one.stats.data)
    return found
