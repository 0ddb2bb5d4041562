"""Turn what pytest-benchmark wrote into samples: one for each round, none of them a mean of others.

Where a round is too short for the clock it is many calls in a row: its sample is their mean, and
the dimension `calls` says of how many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from bench.bundle import Cache, MachineKind, Sample

# In the id of a test that is measured several times.
LOOK = "look"
_PER_S = {"s": 1.0, "ms": 1e3, "us": 1e6}


class Also(msgspec.Struct, frozen=True):
    """A sample that a test added itself. What it leaves out is that of its test."""

    series: str
    round: int
    value: float | None = None
    error: str | None = None
    unit: str = "ms"
    cache: Cache | None = None
    machine_kind: MachineKind | None = None
    dims: dict[str, str] = {}


class Info(msgspec.Struct, frozen=True):
    """What `bench.suites.series` leaves in `extra_info`; a plain benchmark leaves little."""

    series: str = ""
    machine_kind: MachineKind = "none"
    cache: Cache = "none"
    unit: str = "us"
    dims: dict[str, str] = {}
    wanted: int = 0
    is_batch: bool = False
    failures: dict[str, str] = {}
    also: list[Also] = []
    at_s: list[float] = []
    steal_ms: list[float] = []


class _Stats(msgspec.Struct, frozen=True):
    data: list[float]
    rounds: int
    iterations: int


class Benchmark(msgspec.Struct, frozen=True):
    """One test."""

    fullname: str
    stats: _Stats
    extra_info: Info

    @property
    def shortened(self) -> tuple[int, int] | None:
        """Rounds that were measured, rounds that the form wanted, if these are more."""
        wanted, measured = self.extra_info.wanted, self.stats.rounds
        return None if self.extra_info.is_batch or measured >= wanted else (measured, wanted)


class _Report(msgspec.Struct, frozen=True):
    benchmarks: list[Benchmark]


def decode_report(raw: bytes) -> list[Benchmark]:
    """The file of --benchmark-json. Raises: msgspec.MsgspecError when it is none."""
    return msgspec.json.decode(raw, type=_Report).benchmarks


def samples_of(benchmark: Benchmark, begun_at_s: float) -> list[Sample]:
    """Every sample of one test; begun_at_s: of the run, seconds since 1970."""
    own = [] if benchmark.extra_info.is_batch else list(_own(benchmark, begun_at_s))
    return own + [
        _added(one, benchmark.extra_info, begun_at_s) for one in benchmark.extra_info.also
    ]


def _own(benchmark: Benchmark, begun_at_s: float) -> Iterator[Sample]:
    info, stats = benchmark.extra_info, benchmark.stats
    calls = {"calls": str(stats.iterations)} if stats.iterations > 1 else {}
    for number, took_s in enumerate(stats.data):
        error = info.failures.get(str(number))
        yield Sample(
            series=info.series or name_of(benchmark.fullname),
            machine_kind=info.machine_kind,
            cache=info.cache,
            unit=info.unit,
            value=None if error is not None else took_s * _PER_S[info.unit],
            error=error,
            dims=info.dims | calls,
            round=number,
            at_s=_at_s(info.at_s, number, begun_at_s),
            steal_ms=_nth(info.steal_ms, number, 0.0),
        )


def _added(one: Also, info: Info, begun_at_s: float) -> Sample:
    return Sample(
        series=one.series,
        machine_kind=one.machine_kind or info.machine_kind,
        cache=one.cache or info.cache,
        unit=one.unit,
        value=one.value,
        error=one.error,
        dims=one.dims,
        round=one.round,
        at_s=_at_s(info.at_s, one.round, begun_at_s),
        steal_ms=_nth(info.steal_ms, one.round, 0.0),
    )


def _at_s(at_s: Sequence[float], number: int, begun_at_s: float) -> float:
    """Samples of a batch have the time of its begin; a plain benchmark has none, so the run's."""
    if not at_s:
        return 0.0
    return round(at_s[min(max(number, 0), len(at_s) - 1)] - begun_at_s, 3)


def _nth(values: Sequence[float], number: int, other: float) -> float:
    return values[number] if 0 <= number < len(values) else other


def name_of(fullname: str) -> str:
    """`bench/suites/test_journal.py::test_x_y` is the series `journal.x_y`."""
    file, _, test = fullname.rpartition("/")[2].partition("::")
    suite = file.removeprefix("test_").removesuffix(".py")
    return f"{suite}.{test.removeprefix('test_')}"


def series_of(fullname: str) -> str:
    """The same for all looks: `test_journal.py::test_x_y[look3]` is the series `journal.x_y`."""
    return re.sub(rf"\[{LOOK}\d+\]$", "", name_of(fullname))
