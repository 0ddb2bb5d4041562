"""Take every sample of the working set's ways, all of them in turn, round after round."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from bench.pager.lasting import Restart, measure_restart
from bench.pager.placement import Placement, placed
from bench.pager.prepare import Setting
from bench.pager.stand import Clone, Stand, Way, start_together
from bench.pager.ways import cold_crowds, cold_ways, warm_crowds, warm_ways, whole_ways
from bench.steal import read_steal_ms

_T = TypeVar("_T")
_FIRST_PAGES: Final = 10  # machines in a round, for the time to the first page
_TRIES: Final = 5  # for a sample in which the host takes no processor time away


@dataclass
class Found:
    """Samples by the key of the way: a list of clones for each round."""

    rounds: dict[str, list[list[Clone]]] = field(default_factory=lambda: defaultdict(list))
    # By server, then placement: microseconds of the faults of each round.
    faults: dict[str, dict[Placement, list[list[float]]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    first_page_us: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    kills: list[Restart] = field(default_factory=list)
    calm: list[Restart] = field(default_factory=list)
    # Samples set aside because the host took processor time away meanwhile; kept in spite of it.
    set_aside: int = 0
    disturbed: int = 0

    def take(self, sample: Callable[[], _T]) -> _T:
        """Take a sample; again, a few times, if the host took processor time away meanwhile.

        That says nothing of what is measured, and happens to every way alike.
        """
        for _ in range(_TRIES):
            before = read_steal_ms()
            taken = sample()
            if read_steal_ms() == before:
                return taken
            self.set_aside += 1
        self.set_aside -= 1
        self.disturbed += 1
        return taken


def measure_round(stand: Stand, setting: Setting, number: int, found: Found) -> None:
    """One round of everything."""
    for contenders in (
        cold_ways(setting),
        cold_crowds(setting),
        warm_ways(setting),
        warm_crowds(setting),
        whole_ways(setting),
    ):
        for one in _turned(contenders, number):
            run = partial(stand.run, one.way, setting.trace, one.machines)
            found.rounds[one.key].append(found.take(run))
    for placement in Placement:
        for way in _turned(_fault_ways(setting), number):
            faults = partial(_faults_us, stand, setting, way, placement)
            found.faults[way.name][placement].append(found.take(faults))
    for way in _turned(_first_ways(setting), number) * _FIRST_PAGES:
        clone = found.take(partial(stand.run, way, setting.single))[0]
        found.first_page_us[way.name].append((clone.first_ns - clone.mapped_ns) / 1e3)
    found.kills.append(found.take(partial(measure_restart, stand, setting, is_killed=True)))
    found.calm.append(found.take(partial(measure_restart, stand, setting, is_killed=False)))


def _turned(items: Sequence[_T], number: int) -> list[_T]:
    """Another one first in every round."""
    first = number % len(items)
    return [*items[first:], *items[:first]]


def _fault_ways(setting: Setting) -> list[Way]:
    """What a recording serves is single pages: nothing around a fault hides its cost."""
    record = setting.trace.with_name("ignored-record")
    return [
        Way("anonymous", "anonymous", setting.dense),
        Way("raw", "uffd", setting.dense, "demand"),
        Way("ours", "uffd", setting.dense, "ours", record=record),
    ]


def _first_ways(setting: Setting) -> list[Way]:
    return [
        Way("raw", "uffd", setting.dense, "demand", is_eager=True),
        Way("ours", "uffd", setting.dense, "ours", is_eager=True),
    ]


def _faults_us(stand: Stand, setting: Setting, way: Way, placement: Placement) -> list[float]:
    path = setting.trace.with_name("latencies")
    with (
        stand.machine(way, setting.single, path) as machine,
        placed(placement, machine, stand.service),
    ):
        start_together([machine.vm])
    return read_latencies_us(path)


def read_latencies_us(path: Path) -> list[float]:
    """What a machine wrote."""
    values = array("Q")
    values.frombytes(path.read_bytes())
    return [value / 1e3 for value in values]
