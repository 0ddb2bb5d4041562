"""Keep what each part of the daemon says of itself, for whoever asks whether it is ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PartState:
    """detail: for people, also when all is well."""

    is_ready: bool
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
        """Every part as it is now; one whose look fails is not ready."""
        return {part: _ask(look) for part, look in self._looks.items()}

    def values(self) -> Mapping[str, float]:
        """1 for each part that is ready, else 0; for a metric."""
        return {part: float(state.is_ready) for part, state in self.states().items()}


def _ask(look: Look) -> PartState:
    try:
        return look()
    except Exception as exc:
        return PartState(False, f"looking at it: {exc!r}")
