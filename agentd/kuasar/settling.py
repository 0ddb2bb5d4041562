"""Decide whether a sandboxer that was started has found its sandboxes again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SETTLE_S: Final = 5.0
# In times of it. One that has not begun to recover lists nothing, which looks like rest; what still
# changes after so long is Pods that come and go.
_EMPTY_TIMES: Final = 12
_LONGEST_TIMES: Final = 24

# Of each socket: device, inode, time of change; None: there is none.
Identity = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class Look:
    """One list of sandboxes; times by the clock. since_s: of the first of this sandboxer."""

    identity: Identity
    ids: frozenset[str]
    begun_s: float
    ended_s: float
    since_s: float


def has_settled(before: Look | None, now: Look, settle_s: float) -> bool:
    """Whether a sandboxer has found its sandboxes again, after the last two looks."""
    if before is None or before.identity != now.identity:
        return False
    if now.begun_s - before.since_s >= settle_s * _LONGEST_TIMES:
        return True
    needed_s = settle_s if now.ids else settle_s * _EMPTY_TIMES
    return before.ids == now.ids and now.begun_s - before.ended_s >= needed_s


def remembered(before: Look | None, now: Look) -> Look:
    """What the next look is compared with: the first that gave what the last gave."""
    if before is None or before.identity != now.identity:
        return now
    if before.ids == now.ids:
        return before
    return Look(now.identity, now.ids, now.begun_s, now.ended_s, before.since_s)
