"""Give guests their identities, all or none."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from agentd import _core


class InjectPhase(enum.IntEnum):
    """How far a guest came: what it was waited for, or STARTED."""

    CAPABILITIES = 0
    PREPARE = 1
    READY = 2
    COMMIT = 3
    STARTED = 4


class InjectStatus(enum.IntEnum):
    """How it ended for one guest."""

    STARTED = 1
    REJECTED = 2
    CONNECT_FAILED = 3
    PROTOCOL_ERROR = 4
    TIMEOUT_PREPARE = 5
    TIMEOUT_COMMIT = 6
    CANCELLED = 7
    PEER_CLOSED = 8


@dataclass(frozen=True, slots=True)
class InjectTarget:
    """A guest that gets an identity.

    Args: fd: connected to its Unix socket, or to its channel, or -1 if connecting failed. prepare:
    body of PREPARE; None for an autonomous start. epoch: for a channel, on which we then are a new
    host (begin another epoch on it afterwards); None for the Unix socket. has_clock: COMMIT
    carries wall_clock_ns and held_ns.
    """

    fd: int
    prepare: bytes | None
    epoch: bytes | None = None
    has_clock: bool = False


@dataclass(frozen=True, slots=True)
class InjectResult:
    """The outcome for one guest; times are nanoseconds of CLOCK_MONOTONIC, 0 for never.

    Args: reason: of a REJECT. text: for people.
    """

    status: InjectStatus
    phase: InjectPhase
    reason: str
    text: str
    ready_ns: int
    started_ns: int


def inject(
    targets: Sequence[InjectTarget],
    *,
    prepare_deadline_ns: int,
    commit_deadline_ns: int,
    cancel_fd: int = -1,
) -> list[InjectResult]:
    """Start all guests or, if one fails before COMMIT, none.

    Args: prepare_deadline_ns: until all are READY. commit_deadline_ns: until all are STARTED.
    Returns: one result per target, in order; failures of guests are results, not exceptions.
    """
    rows = [(each.fd, each.epoch, each.prepare, each.has_clock) for each in targets]
    answers = _core.run_inject(rows, prepare_deadline_ns, commit_deadline_ns, cancel_fd)
    return [
        InjectResult(InjectStatus(status), InjectPhase(phase), reason, text, ready_ns, started_ns)
        for status, phase, reason, text, ready_ns, started_ns in answers
    ]
