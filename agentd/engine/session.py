"""One session's state."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from agentd.engine.journal_records import (
    SessionFacts,
)
from agentd.errors import ErrorCode, InvariantError, UsageError
from agentd.vmm.vmm import Vm
from agentd.warmfork.channel import GuestChannel
from agentd.wire.api import SessionState


class SessionEvent(enum.StrEnum):
    """What can happen to a session."""

    STARTED = "started"
    END = "end"
    GONE = "gone"


_TRANSITIONS: Final[Mapping[tuple[SessionState, SessionEvent], SessionState]] = {
    (SessionState.STARTING, SessionEvent.STARTED): SessionState.READY,
    (SessionState.STARTING, SessionEvent.END): SessionState.ENDING,
    (SessionState.READY, SessionEvent.END): SessionState.ENDING,
    (SessionState.ENDING, SessionEvent.GONE): SessionState.ENDED,
}


def advance(state: SessionState, event: SessionEvent) -> SessionState:
    """The state after an event. Raises: InvariantError if it cannot happen in that state."""
    after = _TRANSITIONS.get((state, event))
    if after is None:
        raise InvariantError(f"a session that is {state.value} cannot see {event.value}")
    return after


class EndReason(enum.StrEnum):
    """Why a session ended."""

    DELETED = "deleted"
    EXPIRED = "expired"
    IDLE = "idle"
    VM_DIED = "vm_died"
    GUEST_BROKEN = "guest_broken"
    CLIENT_GONE = "client_gone"


@dataclass(frozen=True)
class Machine:
    """A running machine with the channel to its guest; released together."""

    vm: Vm
    channel: GuestChannel


@dataclass(frozen=True)
class Ready:
    """A machine whose guest has its identity."""

    machine: Machine
    hostname: str
    stages_ms: Mapping[str, float]


@dataclass(eq=False)
class Session:
    """A session. Its own times are seconds of the event loop's clock.

    uses: requests in progress; while there are any, the session is not idle. leases: released at
    its end. watcher: waits for its machine's death. ending: runs once it ends. changed: is set when
    the machine has another channel, or is gone.
    """

    id: str
    facts: SessionFacts
    expires_s: float
    state: SessionState = SessionState.STARTING
    machine: Machine | None = None
    uses: int = 0
    last_used_s: float = 0.0
    ended_reason: str = ""
    leases: ExitStack = field(default_factory=ExitStack)
    watcher: asyncio.Task[None] | None = None
    ending: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.state.value} uses={self.uses}>"

    def advance(self, event: SessionEvent) -> None:
        """Move on. Raises: InvariantError."""
        self.state = advance(self.state, event)

    def note_change(self) -> None:
        """Wake who waits for another channel; later ones wait for the next change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def due_s(self, now_s: float) -> float | None:
        """When to look at it next: its end, or its last use plus the idle time-out."""
        if self.state is not SessionState.READY:
            return None
        last_s = now_s if self.uses else self.last_used_s
        return min(self.expires_s, last_s + self.facts.idle_timeout_s)

    def require_ready(self) -> Machine:
        """Its machine. Raises: UsageError if it does not serve requests."""
        if self.state is SessionState.READY and self.machine is not None:
            return self.machine
        if self.state is SessionState.STARTING:
            raise UsageError(
                ErrorCode.REQUEST_INVALID,
                f"using session {self.id!r}: it is still starting",
                hint="wait until its creation is answered",
            )
        raise ended_error(self.id, self.ended_reason)


def ended_error(session_id: str, reason: str) -> UsageError:
    """For whoever uses a session that is over."""
    return UsageError(
        ErrorCode.SESSION_ENDED,
        f"using session {session_id!r}: it ended ({reason or 'reason unknown'})",
        hint="create another session",
    )
