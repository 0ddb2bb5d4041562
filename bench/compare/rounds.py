"""Run the suites of two builds in turn, so that the machine's moods fall on both alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from agentd.errors import ErrorCode, PermanentError
from bench.compare.builds import Build
from bench.compare.process import last_words, run_to_log

Samples = dict[str, list[float]]


@dataclass
class Side:
    """One build and what was measured of it. rounds: of each series, the samples of each round.

    at_s: when each round began, of a clock that both sides share. lost: series that it measured in
    some rounds only, in how many.
    """

    name: str
    build: Build
    log: Path
    rounds: dict[str, list[list[float]]] = field(default_factory=dict)
    at_s: list[float] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)


class _Stats(msgspec.Struct):
    data: list[float]


class _Benchmark(msgspec.Struct):
    fullname: str
    stats: _Stats


class _Report(msgspec.Struct):
    benchmarks: list[_Benchmark]


Measure = Callable[[Side], Samples]


def run_in_turn(
    sides: tuple[Side, Side], rounds: int, seed: int, measure: Measure, tell: Callable[[int], None]
) -> None:
    """Measure both sides `rounds` times; in each round the lot says which comes first.

    The lot makes the judgement exact: were the builds equal, either of a pair could as well have
    been the other, however the machine changed meanwhile. tell: called after each round.
    """
    draw = random.Random(seed)
    for number in range(rounds):
        for side in draw.sample(sides, 2):
            side.at_s.append(time.monotonic())
            for name, samples in measure(side).items():
                side.rounds.setdefault(name, []).append(samples)
        tell(number + 1)
    for side in sides:
        _drop_uneven(side, rounds)


def _drop_uneven(side: Side, rounds: int) -> None:
    """A series that failed in some rounds has no partner for others: it is lost, not shorter."""
    side.lost = {name: len(found) for name, found in side.rounds.items() if len(found) != rounds}
    for name in side.lost:
        del side.rounds[name]


def measure_suites(side: Side, suites: Sequence[str], form: str = "") -> Samples:
    """Run the suites of that name, or all, once: seconds, by series.

    form: of the series that need more than a processor; they are left out without one.
    Raises: PermanentError with pytest's last words when nothing was measured.
    """
    tree = side.build.tree
    report = side.log.with_suffix(".samples.json")
    report.unlink(missing_ok=True)
    directory = tree / "bench" / "suites"
    files = [directory / f"test_{name}.py" for name in suites] or [directory]
    argv: list[str | Path] = [
        side.build.python, "-m", "pytest", "-q", "-c", directory / "pytest.ini", *files,
        "--continue-on-collection-errors", f"--benchmark-json={report}",
        *([f"--form={form}"] if form else []),
    ]  # fmt: skip
    status = run_to_log(argv, cwd=tree, env=side.build.variables, log=side.log)
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
    if not raw:
        return {}
    found = msgspec.json.decode(raw, type=_Report)
    return {name_of(one.fullname): one.stats.data for one in found.benchmarks}


def name_of(fullname: str) -> str:
    """`bench/suites/test_journal.py::test_x_y` is the series `journal.x_y`."""
    file, _, test = fullname.rpartition("/")[2].partition("::")
    return f"{file.removeprefix('test_').removesuffix('.py')}.{test.removeprefix('test_')}"
