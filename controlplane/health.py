"""Keep what each part of the program says of itself, for whoever asks whether it is ready."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


class Readiness(enum.StrEnum):
    """DEGRADED: sessions start cold, or nothing is built, but requests are answered as they should.

    A replica that is NOT_READY gets no requests, so nothing outside that all replicas share may
    make it so: admission would end for its failure.
    """

    READY = "ready"
    DEGRADED = "degraded"
    NOT_READY = "not_ready"


@dataclass(frozen=True)
class PartState:
    """detail: for people, also when all is well."""

    readiness: Readiness
    detail: str


Look = Callable[[], PartState]


class Health:
    """Parts register how to look at them; a look must not block."""

    def __init__(self) -> None:
        self._looks: dict[str, Look] = {}

    def add(self, part: str, look: Look) -> None:
        """Ask this one for a part from now on, in place of who answered before."""
        self._looks[part] = look

    def states(self) -> dict[str, PartState]:
        """Every part as it is now."""
        return {part: _ask(look) for part, look in self._looks.items()}

    def values(self) -> Mapping[str, float]:
        """1 for each part that is ready, else 0; for a metric."""
        states = self.states().items()
        return {part: float(state.readiness is Readiness.READY) for part, state in states}


def describe_states(states: Mapping[str, PartState]) -> tuple[Readiness, dict[str, Any]]:
    """The worst of them, with all of them as plain values."""
    found = {state.readiness for state in states.values()}
    worst = next(
        (one for one in (Readiness.NOT_READY, Readiness.DEGRADED) if one in found), Readiness.READY
    )
    parts = {
        part: {"state": state.readiness.value, "detail": state.detail}
        for part, state in states.items()
    }
    return worst, {"status": worst.value, "parts": parts}


def _ask(look: Look) -> PartState:
    try:
        return look()
    except Exception as exc:
        return PartState(Readiness.NOT_READY, f"looking at it: {exc!r}")
