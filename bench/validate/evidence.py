"""Define what a scenario records while it runs."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

Fact = bool | int | float | str


class How(enum.StrEnum):
    """How a session came to be, by all that is known of it."""

    RESTORED = "restored"
    COLD = "cold"
    REFUSED = "refused"
    UNCLEAR = "unclear"


class Start(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One start of a session, or an attempt.

    group: what of the scenario it belongs to. asked: fork or cold where the caller says so, empty
    where a cluster decides. said: fork or cold, by what the product says of it afterwards.
    is_incoming: its monitor was started to load a saved machine, as the host's process table shows;
    None where there is no monitor to look at. intent: key that its Pod carries. stages_ms: as the
    daemon timed them. error: code of a start that was refused. identity: as its own code reads it.
    is_right: its code answered what it should. events: reasons, of its Pod and Sandbox. ms: from
    the request to the reply of its code. steal_ms: what the host took of all processors meanwhile.
    """

    name: str
    group: str
    node: str = ""
    asked: str = ""
    said: str = ""
    is_incoming: bool | None = None
    intent: str = ""
    reason: str = ""
    error: str = ""
    message: str = ""
    events: tuple[str, ...] = ()
    stages_ms: dict[str, float] = {}
    identity: dict[str, str] = {}
    is_right: bool = False
    ready_ms: float | None = None
    ms: float | None = None
    at_s: float = 0.0
    steal_ms: float = 0.0


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a scenario has recorded. error: what ended it early, empty if nothing did."""

    scenario: str
    machine_kind: str
    starts: tuple[Start, ...] = ()
    facts: dict[str, Fact] = {}
    error: str = ""

    def of(self, *groups: str) -> list[Start]:
        """The starts of some groups."""
        return [one for one in self.starts if one.group in groups]


class Record:
    """Evidence while it grows: what was seen before a scenario broke is kept, too."""

    def __init__(self, scenario: str, machine_kind: str) -> None:
        self._scenario = scenario
        self._machine_kind = machine_kind
        self._starts: list[Start] = []
        self._facts: dict[str, Fact] = {}

    def add(self, *starts: Start) -> None:
        """Note starts."""
        self._starts += starts

    def note(self, **facts: Fact) -> None:
        """Note facts by name; the last value of a name counts."""
        self._facts.update(facts)

    def close(self, error: str = "") -> Evidence:
        """What there is."""
        return Evidence(
            scenario=self._scenario,
            machine_kind=self._machine_kind,
            starts=tuple(self._starts),
            facts=dict(self._facts),
            error=error,
        )


def how_started(start: Start) -> How:
    """Two witnesses have to agree: what the product says, what the host sees of the monitor."""
    if start.error:
        return How.REFUSED
    said = {"fork": How.RESTORED, "cold": How.COLD}.get(start.said, How.UNCLEAR)
    if start.is_incoming is not None and start.is_incoming is not (said is How.RESTORED):
        return How.UNCLEAR
    return said


def times_ms(starts: Sequence[Start]) -> list[float]:
    """Of those that answered."""
    return [one.ms for one in starts if one.ms is not None and not one.error]
