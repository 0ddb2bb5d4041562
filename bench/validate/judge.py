"""Judge a scenario by its evidence alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from bench.validate.evidence import Evidence, How, Start, how_started

Judge = Callable[[Evidence], list[str]]
Rule = Callable[[Evidence], Iterator[str]]

# What a restored session must not share with any other of its scenario.
IDENTITY = ("boot_id", "hostname", "session_id")


def judge(evidence: Evidence, rules: Sequence[Rule]) -> list[str]:
    """What contradicts the expectation, each in one sentence; nothing if it was met."""
    broken = [f"it broke off: {evidence.error}"] if evidence.error else []
    return broken + [text for rule in rules for text in rule(evidence)]


def has_starts(group: str, at_least: int = 1) -> Rule:
    """There is enough to judge: no evidence is no success."""

    def rule(evidence: Evidence) -> Iterator[str]:
        count = len(evidence.of(group))
        if count < at_least:
            yield f"{count} starts of {group!r} were recorded, {at_least} are needed"

    return rule


def has_as_many_as(group: str, fact: str) -> Rule:
    """As many starts as the scenario says that it asked for."""

    def rule(evidence: Evidence) -> Iterator[str]:
        count, wanted = len(evidence.of(group)), evidence.facts.get(fact)
        if wanted is None or count != wanted:
            yield f"{count} starts of {group!r} were recorded, {wanted} were asked for"

    return rule


def are_restored(*groups: str) -> Rule:
    """Each was restored, never booted, and answered."""

    def rule(evidence: Evidence) -> Iterator[str]:
        for one in evidence.of(*groups):
            yield from _started(one, How.RESTORED)
            if "boot" in one.stages_ms or "warm" in one.stages_ms:
                yield f"{one.name} has a boot among its stages: {sorted(one.stages_ms)}"

    return rule


def are_cold(*groups: str, reasons: Collection[str] = ("",)) -> Rule:
    """Each booted, for one of these reasons, and answered."""

    def rule(evidence: Evidence) -> Iterator[str]:
        for one in evidence.of(*groups):
            yield from _started(one, How.COLD)
            if one.reason not in reasons:
                yield f"{one.name} gives {one.reason!r} as its reason, not one of {sorted(reasons)}"

    return rule


def are_refused(*groups: str, codes: Collection[str]) -> Rule:
    """Each was refused with an error that says why; none became a session."""

    def rule(evidence: Evidence) -> Iterator[str]:
        for one in evidence.of(*groups):
            if how_started(one) is not How.REFUSED:
                yield f"{one.name} became a session, {how_started(one).value}, and should not have"
            elif one.error not in codes:
                yield f"{one.name} was refused with {one.error!r}, not one of {sorted(codes)}"
            elif not one.message:
                yield f"{one.name} was refused with {one.error!r} and no word why"

    return rule


def carry_intent(*groups: str) -> Rule:
    """Each was told which snapshot to restore, all the same one."""

    def rule(evidence: Evidence) -> Iterator[str]:
        starts = evidence.of(*groups)
        yield from (f"{one.name} carries no restore intent" for one in starts if not one.intent)
        if len(keys := {one.intent for one in starts if one.intent}) > 1:
            yield f"the restore intents of {', '.join(groups)} differ: {sorted(keys)}"

    return rule


def carry_none(*groups: str) -> Rule:
    """None was told to restore anything."""

    def rule(evidence: Evidence) -> Iterator[str]:
        for one in evidence.of(*groups):
            if one.intent:
                yield f"{one.name} carries restore intent {one.intent!r}"

    return rule


def tell(event: str, *groups: str) -> Rule:
    """Of each there is an event that an administrator can see."""

    def rule(evidence: Evidence) -> Iterator[str]:
        for one in evidence.of(*groups):
            if event not in one.events:
                yield f"no event {event} tells of {one.name}, only {sorted(one.events)}"

    return rule


def share_no_identity(*groups: str) -> Rule:
    """All of each group's sessions differ in everything that identifies, and have all of it."""

    def rule(evidence: Evidence) -> Iterator[str]:
        starts = [one for one in evidence.of(*groups) if not one.error]
        for name in IDENTITY:
            values = [one.identity.get(name, "") for one in starts]
            if not all(values):
                yield f"a session has no {name}"
            elif len(set(values)) < len(values):
                yield f"two sessions have the same {name}"

    return rule


def is_fact(name: str, *wanted: object) -> Rule:
    """A fact was recorded with one of these values."""

    def rule(evidence: Evidence) -> Iterator[str]:
        found = evidence.facts.get(name)
        if found is None:
            yield f"{name.replace('_', ' ')} was not recorded"
        elif found not in wanted:
            yield f"{name.replace('_', ' ')} is {found}, not {' or '.join(map(str, wanted))}"

    return rule


def is_above(name: str, floor: float) -> Rule:
    """A fact was recorded with a larger value."""

    def rule(evidence: Evidence) -> Iterator[str]:
        found = evidence.facts.get(name)
        if not isinstance(found, int | float) or found <= floor:
            yield f"{name.replace('_', ' ')} is {found}, not above {floor:g}"

    return rule


def _started(one: Start, wanted: How) -> Iterator[str]:
    found = how_started(one)
    if found is How.REFUSED:
        yield f"{one.name} did not start: {one.error}: {one.message}"
    elif found is not wanted:
        seen = f"says {one.said!r}, incoming {one.is_incoming}, reason {one.reason!r}"
        yield f"{one.name} is {found.value}, not {wanted.value} ({seen})"
    if found is not How.REFUSED and not one.is_right:
        yield f"{one.name} did not answer what its code should"
