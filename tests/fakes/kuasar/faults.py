"""Switches of a stand-in for what goes wrong with a call."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Delay:
    """The reply comes late; what was asked is done at once."""

    seconds: float


@dataclass(frozen=True)
class Abort:
    """It is refused with these words and not done. status: gRPC's name of a code."""

    text: str
    status: str = "INTERNAL"


Fault = str | bytes | Delay | Abort | None


@dataclass
class Faults:
    """What goes wrong, one entry for each call to come; None for a call that goes well.

    "hang": it is done, no reply, ever. "drop": it is done, the connection ends without a reply.
    "lose": it is not even done. "truncate": half of the reply. "twice": the reply, and once more.
    Bytes: they are the reply.
    """

    calls: deque[Fault] = field(default_factory=deque)

    def next(self) -> Fault:
        """Of this call."""
        return self.calls.popleft() if self.calls else None
