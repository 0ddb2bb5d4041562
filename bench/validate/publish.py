"""Put what a run saw into a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import msgspec

from bench.bundle import BundleWriter, MachineKind, Promised, Sample
from bench.validate.evidence import How, Start, how_started
from bench.validate.run import Outcome, Verdict
from bench.validate.scenario import Scenario
from bench.validate.show import seen

SERIES = "start to first reply"


def publish(
    writer: BundleWriter,
    scenarios: Sequence[Scenario],
    outcomes: Sequence[Outcome],
    begun_at_s: float,
) -> None:
    """Every outcome with its evidence; times of starts as samples; a log of each that failed.

    Args: begun_at_s: when the run began, seconds since the Unix epoch.
    """
    by_name = {one.name: one for one in scenarios}
    for outcome in outcomes:
        writer.add(*samples_of(by_name[outcome.name], outcome, begun_at_s))
        writer.promise(promised(outcome))
        content = msgspec.json.format(msgspec.json.encode(outcome), indent=1)
        writer.add_file(f"evidence/{file_name(outcome.name)}.json", content)
        if outcome.verdict is not Verdict.PASSED:
            text = "\n".join([f"{outcome.name}: {outcome.verdict}", *outcome.problems, ""])
            writer.add_file(f"logs/{file_name(outcome.name)}.txt", text)


def samples_of(scenario: Scenario, outcome: Outcome, begun_at_s: float) -> Iterator[Sample]:
    """The times of the groups that are timed; a start without one is a failure that is counted."""
    for group in scenario.timed:
        for number, start in enumerate(outcome.evidence.of(group)):
            how, is_timed = how_started(start), start.ms is not None and not start.error
            yield Sample(
                series=SERIES,
                machine_kind=cast("MachineKind", outcome.machine_kind),
                cache="warm",
                unit="ms",
                value=start.ms if is_timed else None,
                error=None if is_timed else f"{start.error or how.value}: {start.message}",
                round=number,
                at_s=max(0.0, start.at_s - begun_at_s),
                dims=dims_of(outcome, start, how),
                steal_ms=start.steal_ms,
            )


def dims_of(outcome: Outcome, start: Start, how: How) -> dict[str, str]:
    """What tells groups of starts apart; what was asked for where nothing started."""
    started = how.value if how is not How.REFUSED else start.asked or "unknown"
    return {"scenario": outcome.name, "group": start.group, "started": started}


def promised(outcome: Outcome) -> Promised:
    """The expected path, what was seen of it."""
    return Promised(
        name=outcome.name,
        promised=outcome.expected,
        measured=seen(outcome.evidence),
        is_kept=outcome.verdict is Verdict.PASSED,
    )


def file_name(scenario: str) -> str:
    """Of a scenario, with nothing in it that a shell or a path would take for its own."""
    words = "".join(letter if letter.isalnum() else " " for letter in scenario.lower())
    return "-".join(words.split())
