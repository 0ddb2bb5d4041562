"""Start a session from a snapshot in one call."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field
from typing import cast

from agentd import _core
from agentd.errors import ErrorCode, PeerError, SnapStartError
from agentd.native.calls import CallCancelledError, system_error
from agentd.native.process import (
    Process,
    SpawnRequest,
    discard_process,
    spawn_arguments,
    spawn_error,
)

EPOCH_BYTES = 16
NEXT_STREAM = 3
"""First stream id of the multiplexer that a fork has not used."""


class ForkStage(enum.IntEnum):
    """What a fork waits for, in order (native/core/fork.h)."""

    SPAWN = 0
    MONITOR = 1
    LOAD = 2
    RESUME = 3
    GUEST = 4
    PREPARE = 5
    START = 6


class _ForkKind(enum.IntEnum):
    SYSTEM = 1
    SPAWN_FAILED = 2
    VMM_EXITED = 3
    VMM_REFUSED = 4
    VMM_PROTOCOL = 5
    GUEST_PROTOCOL = 6
    GUEST_REJECTED = 7
    DEADLINE = 8
    CANCELLED = 9


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """A session to start from a snapshot.

    Args: spawn: the VMM; it inherits the listening ends of both sockets. qmp_fd, channel_fd:
    connected to those, nothing read or written so far. qmp_lines: commands of the monitor, from
    qmp_capabilities to migrate-incoming, each ended by a newline; none for a cold boot, of which
    nothing is loaded. qmp_replies: how many. prepare:
    body of the PREPARE message (JSON object with type, task_id, context, env_overrides). epoch:
    of the multiplexer.
    """

    spawn: SpawnRequest
    qmp_fd: int
    qmp_lines: bytes
    qmp_replies: int
    channel_fd: int
    prepare: bytes
    epoch: bytes = field(default_factory=lambda: os.urandom(EPOCH_BYTES))


@dataclass(frozen=True, slots=True)
class ForkTimes:
    """When each stage was reached, nanoseconds of CLOCK_MONOTONIC.

    `resumed_ns` may precede `loaded_ns`: the VMM resumes the guest before it reports the migration.
    Of a cold boot both are the moment the monitor answered.
    """

    begun_ns: int
    spawned_ns: int
    monitor_ns: int
    loaded_ns: int
    resumed_ns: int
    guest_ready_ns: int
    prepared_ns: int
    started_ns: int


@dataclass(frozen=True, slots=True)
class ForkResult:
    """A started session. Owns `process`.

    The pending bytes were read from the sockets and belong to whoever reads them next. Our side of
    the inject stream (1) is closed; frames of it may still come. The next stream is NEXT_STREAM.
    """

    process: Process
    times: ForkTimes
    epoch: bytes
    qmp_pending: bytes
    channel_pending: bytes


class ForkError(PeerError):
    """A fork that failed; the VMM is killed and reaped, the sockets are useless.

    Args: stage: what it was waiting for. exit_status: of a VMM that ended by itself, as os.waitpid
    has it, else None.
    """

    def __init__(
        self, code: ErrorCode, message: str, *, stage: ForkStage, exit_status: int | None = None
    ) -> None:
        super().__init__(code, message)
        self.stage = stage
        self.exit_status = exit_status


def fork(request: ForkRequest, *, deadline_ns: int, cancel_fd: int = -1) -> ForkResult:
    """Start a VM from a snapshot, inject its identity, and wait until the guest has started.

    Raises: ForkError with VMM_FAILED, VMM_PROTOCOL, GUEST_NOT_READY, GUEST_PROTOCOL,
    GUEST_REJECTED or DEADLINE_EXCEEDED; ConfigError and TransientError as `spawn`;
    CallCancelledError.
    """
    answer = _core.run_fork(
        spawn_arguments(request.spawn),
        request.qmp_fd,
        request.qmp_lines,
        request.qmp_replies,
        request.channel_fd,
        request.epoch,
        request.prepare,
        deadline_ns,
        cancel_fd,
    )
    if answer[0] != 0:
        raise _fork_error(cast("tuple[int, int, int, int, str, str]", answer), request)
    _, pid, pidfd, times, qmp, channel = cast(
        "tuple[int, int, int, _core._ForkTimes, bytes, bytes]", answer
    )
    return ForkResult(Process(pid, pidfd), ForkTimes(*times), request.epoch, qmp, channel)


def discard_fork(result: ForkResult) -> None:
    """Kill, reap and close the VMM: for `run(..., discard=)`."""
    discard_process(result.process)


_FORK_CODES = {
    _ForkKind.VMM_EXITED: ErrorCode.VMM_FAILED,
    _ForkKind.VMM_REFUSED: ErrorCode.VMM_FAILED,
    _ForkKind.VMM_PROTOCOL: ErrorCode.VMM_PROTOCOL,
    _ForkKind.GUEST_PROTOCOL: ErrorCode.GUEST_PROTOCOL,
    _ForkKind.GUEST_REJECTED: ErrorCode.GUEST_REJECTED,
}


def _fork_error(
    answer: tuple[int, int, int, int, str, str], request: ForkRequest
) -> SnapStartError | CallCancelledError:
    kind, stage = _ForkKind(answer[0]), ForkStage(answer[1])
    code, status, reason, text = answer[2:]
    if kind is _ForkKind.CANCELLED:
        return CallCancelledError(text)
    if kind is _ForkKind.SPAWN_FAILED:
        return spawn_error(-code, text.rsplit(":", 1)[0], request.spawn)
    if kind is _ForkKind.SYSTEM:
        return system_error(-code, f"start a fork: {text}")
    if kind is _ForkKind.DEADLINE:
        waited = ErrorCode.GUEST_NOT_READY if stage <= ForkStage.GUEST else None
        return ForkError(waited or ErrorCode.DEADLINE_EXCEEDED, text, stage=stage)
    if kind is _ForkKind.GUEST_REJECTED:
        text = f"the guest rejected the session: {reason!r}: {text}"
    exit_status = None if status < 0 else status
    return ForkError(_FORK_CODES[kind], text, stage=stage, exit_status=exit_status)
