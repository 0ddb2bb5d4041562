"""Run many seeds, or look for planted defects, on several processors."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeVar

from .planted import PLANTED
from .run import Outcome, run_seed

MOST_SEEDS: Final = 1000
_CHUNK: Final = 10
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Tally:
    """What many seeds came to."""

    seeds: int = 0
    steps: int = 0
    faults: int = 0
    actions: int = 0
    restored: int = 0
    hours: float = 0.0
    failing: list[Outcome] = field(default_factory=list)

    def add(self, one: Outcome) -> None:
        """Count a seed."""
        self.seeds += 1
        self.steps += one.steps
        self.faults += one.faults
        self.actions += one.actions
        self.restored += one.restored
        self.hours += one.seconds / 3600
        if one.violations:
            self.failing.append(one)


@dataclass(frozen=True)
class Found:
    """What became of the search for one planted defect. seed: the first that shows it."""

    number: str
    what: str
    seed: int | None
    violation: str = ""


def run_seeds(seeds: Iterable[int], processes: int) -> Iterator[Outcome]:
    """Each seed's outcome, as it comes; traces only of those that fail."""
    return _spread(_run, seeds, processes, _CHUNK)


def find_planted(
    processes: int, most: int = MOST_SEEDS, *, is_quick: bool = False
) -> Iterator[Found]:
    """Each planted defect with a seed that shows it, as it comes.

    is_quick: the seed that showed it last time is tried first; else it is the first of all.
    """
    jobs = ((number, most, is_quick) for number in range(len(PLANTED)))
    return _spread(_find, jobs, processes, 1)


def _run(seed: int) -> Outcome:
    outcome = run_seed(seed)
    return outcome if outcome.violations else _without_tail(outcome)


def _without_tail(outcome: Outcome) -> Outcome:
    kept = {**outcome.__dict__, "tail": ()}
    return Outcome(**kept)


def _find(job: tuple[int, int, bool]) -> Found:
    at, most, is_quick = job
    one = PLANTED[at]
    for seed in (*((one.last_seen,) if is_quick else ()), *range(most)):
        with one.planted():
            outcome = run_seed(seed)
        if outcome.violations and not run_seed(seed).violations:
            return Found(one.number, one.what, seed, str(outcome.violations[0]))
    return Found(one.number, one.what, None)


def _spread(work: Callable[[T], R], jobs: Iterable[T], processes: int, chunk: int) -> Iterator[R]:
    if processes == 1:
        yield from map(work, jobs)
        return
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap_unordered(work, jobs, chunk)
