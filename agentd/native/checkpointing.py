"""Stop a machine, write its device state."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import cast

from agentd import _core
from agentd.errors import ErrorCode, PeerError, SnapStartError
from agentd.native.calls import CallCancelledError, system_error


@dataclass(frozen=True, slots=True)
class CheckpointTimes:
    """When each stage was reached, nanoseconds of CLOCK_MONOTONIC."""

    begun_ns: int
    negotiated_ns: int
    stopped_ns: int
    configured_ns: int
    migrated_ns: int


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    """A stopped VM whose device state is written. `qmp_pending`: as in ForkResult."""

    times: CheckpointTimes
    qmp_pending: bytes


def checkpoint(
    qmp_fd: int, state_fd: int, *, is_negotiated: bool, deadline_ns: int, cancel_fd: int = -1
) -> CheckpointResult:
    """Stop a VM and write its device state, without RAM, to a file.

    Args: qmp_fd: the monitor, with no reply outstanding. state_fd: an empty file open for writing.
    is_negotiated: qmp_capabilities was done on this connection.
    Raises: PeerError with VMM_FAILED or VMM_PROTOCOL, TransientError, CallCancelledError.
    Afterwards the VM may be stopped or migrating: kill it.
    """
    answer = _core.run_checkpoint(qmp_fd, is_negotiated, state_fd, deadline_ns, cancel_fd)
    if answer[0] != 0:
        raise _checkpoint_error(*cast("tuple[int, str]", answer))
    _, times, pending = cast("tuple[int, tuple[int, int, int, int, int], bytes]", answer)
    return CheckpointResult(CheckpointTimes(*times), pending)


def _checkpoint_error(code: int, text: str) -> SnapStartError | CallCancelledError:
    message = f"cannot checkpoint the VM: {text}"
    if -code == errno.ECANCELED:
        return CallCancelledError(message)
    if -code in (errno.EREMOTEIO, errno.ECONNRESET, errno.EPIPE):
        return PeerError(ErrorCode.VMM_FAILED, message)
    if -code in (errno.EPROTO, errno.EMSGSIZE):
        return PeerError(ErrorCode.VMM_PROTOCOL, message)
    return system_error(-code, message)
