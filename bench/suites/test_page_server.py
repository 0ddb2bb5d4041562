"""How fast does the page server fill a machine's memory?"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.pager.prepare import Setting, prepare
from bench.pager.programs import BUILD, build_programs
from bench.pager.service import Service
from bench.pager.stand import Clone, Stand
from bench.pager.ways import Contender, cold_ways, warm_crowds, warm_ways
from bench.suites.series import Series

KEYS = ("floor", "map", "raw-before", "ours", "ours-demand", "ours-memfd")
COLD_KEYS = ("map-cold", "raw-before-cold", "ours-cold")


@pytest.fixture
def stand() -> Iterator[Stand]:
    """Where stand-ins for machines run on a page server."""
    build_programs()
    with Service() as service:
        yield Stand(service)


@pytest.fixture
def setting(stand: Stand) -> Iterator[Setting]:
    """Images, traces, working sets."""
    with (
        tempfile.TemporaryDirectory(prefix="run-", dir=BUILD) as directory,
        prepare(stand, Path(directory)) as made,
    ):
        yield made


@pytest.mark.budget(quick_s=30, quick=5, full=30)
def test_a_working_set_is_filled(series: Series, stand: Stand, setting: Setting) -> None:
    """pager.working_set: from the clock's start to the last of 8,000 pages, each way in turn.

    The way is a dimension: floor (all resident), map (the kernel maps the file), raw-before (the
    smallest loop in C), ours (`snap-pager`). Cold: nothing of the files is in the page cache. The
    machine is a stand-in: a process that maps memory and touches pages.
    """
    series.describe("pager.round", machine="stand-in", unit="s")
    warm = [one for one in warm_ways(setting) if one.key in KEYS]
    cold = [one for one in cold_ways(setting) if one.key in COLD_KEYS]
    crowds = [one for one in warm_crowds(setting) if one.key in ("map-8", "ours-8")]
    ways = [*cold, *warm, *crowds]

    def run() -> list[tuple[Contender, list[Clone]]]:
        first = series.number % len(ways)
        turned = [*ways[first:], *ways[:first]]
        return [(one, stand.run(one.way, setting.trace, one.machines)) for one in turned]

    def after(found: list[tuple[Contender, list[Clone]]]) -> None:
        for one, clones in found:
            cache = "cold" if one.way.is_cold else "warm"
            for clone in clones:
                series.also(
                    "pager.working_set", clone.total_ns / 1e6, unit="ms",
                    cache=cache, way=one.key, together=one.machines,
                )  # fmt: skip

    series.rounds(run, after=after)
