"""Act scenarios out one after another; one that fails keeps no other from running."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import msgspec

from bench.validate.evidence import Evidence, Record
from bench.validate.judge import judge
from bench.validate.scenario import Scenario, Stage


class Verdict(enum.StrEnum):
    """What came of a scenario. NOT_RUN: what it runs on could not be set up, or was lost."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario's evidence with what was judged of it."""

    name: str
    stage: Stage
    setup: str
    expected: str
    machine_kind: str
    verdict: Verdict
    problems: tuple[str, ...]
    seconds: float
    evidence: Evidence


class Performer(Protocol):
    """A stage that is set up."""

    def perform(self, name: str, record: Record) -> None:
        """Act one scenario out, record what is seen. Raises: anything."""


OpenStage = Callable[[], AbstractContextManager[Performer]]


class StageLeftError(Exception):
    """A stage was taken down, and something of it is still there."""


def run_plan(
    scenarios: Sequence[Scenario],
    stages: Mapping[Stage, OpenStage],
    say: Callable[[str], None],
) -> tuple[list[Outcome], list[str]]:
    """All of them, by stage in the order given.

    Returns: their outcomes; what went wrong about the stages themselves, such as what they left.
    Cancellation: KeyboardInterrupt takes the stage down, then goes on.
    """
    outcomes: list[Outcome] = []
    troubles: list[str] = []
    for stage in dict.fromkeys(one.stage for one in scenarios):
        mine = [one for one in scenarios if one.stage is stage]
        done: list[Outcome] = []
        try:
            with stages[stage]() as performer:
                for scenario in mine:
                    say(f"{scenario.name}: {scenario.setup}")
                    done.append(_attempt(scenario, performer))
                    say(f"{scenario.name}: {done[-1].verdict} ({done[-1].seconds:.0f} s)")
        except Exception as exc:
            troubles.append(f"stage {stage}: {describe(exc)}")
            say(troubles[-1])
        outcomes += [*done, *(_not_run(one, troubles[-1]) for one in mine[len(done) :])]
    return outcomes, troubles


def _attempt(scenario: Scenario, performer: Performer) -> Outcome:
    record = Record(scenario.name, scenario.machine_kind)
    begun_s, error = time.monotonic(), ""
    try:
        performer.perform(scenario.name, record)
    except Exception as exc:
        error = describe(exc)
    evidence = record.close(error)
    problems = judge(evidence, scenario.rules)
    verdict = Verdict.FAILED if problems else Verdict.PASSED
    return _outcome(scenario, evidence, verdict, problems, time.monotonic() - begun_s)


def _not_run(scenario: Scenario, why: str) -> Outcome:
    evidence = Record(scenario.name, scenario.machine_kind).close(why)
    return _outcome(scenario, evidence, Verdict.NOT_RUN, [why], 0.0)


def _outcome(
    scenario: Scenario, evidence: Evidence, verdict: Verdict, problems: list[str], seconds: float
) -> Outcome:
    return Outcome(
        name=scenario.name,
        stage=scenario.stage,
        setup=scenario.setup,
        expected=scenario.expected,
        machine_kind=scenario.machine_kind,
        verdict=verdict,
        problems=tuple(problems),
        seconds=round(seconds, 3),
        evidence=evidence,
    )


def describe(error: Exception) -> str:
    """With its type, which says whose it is."""
    return f"{type(error).__name__}: {error}"


@contextmanager
def leaving_nothing(find: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Raises: StageLeftError with what `find` still finds when the block ended well."""
    yield
    if left := find():
        raise StageLeftError(f"left behind: {', '.join(left)}")
