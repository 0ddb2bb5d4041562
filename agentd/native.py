"""Start, checkpoint and hand sessions to virtual machines through the C core.

Descriptors passed in are borrowed unless a docstring says otherwise; descriptors in results are
owned by whoever holds the result. Deadlines are absolute nanoseconds of CLOCK_MONOTONIC
(`deadline_after`). The functions block without the GIL; `run` makes them awaitable.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar, cast

from agentd import _core
from agentd._cold import ffi, lib
from agentd.errors import (
    ConfigError,
    ErrorCode,
    PeerError,
    PermanentError,
    SnapStartError,
    TransientError,
)
from agentd.units import MIB, NS_PER_S

T = TypeVar("T")

EPOCH_BYTES = 16
CHUNK_BYTES = 2 * MIB
NEVER_NS = 2**63 - 1
"""A deadline that does not come."""
NEXT_STREAM = 3
"""First stream id of the multiplexer that a fork has not used."""


def deadline_after(seconds: float) -> int:
    """Return the deadline that many seconds from now; infinity is none."""
    if math.isinf(seconds):
        return NEVER_NS
    return time.monotonic_ns() + int(seconds * NS_PER_S)


async def run(
    call: Callable[[int], T],
    *,
    discard: Callable[[T], None] | None = None,
    pool: Executor | None = None,
) -> T:
    """Run a blocking call of this module in a thread.

    Args: call: gets the `cancel_fd` to pass on. discard: releases a result that came although the
    caller was cancelled. pool: of threads, None for the event loop's own.
    Cancellation: tells the call, waits until it has cleaned up, then raises CancelledError.
    """
    cancel_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        work = asyncio.get_running_loop().run_in_executor(pool, call, cancel_fd)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            os.eventfd_write(cancel_fd, 1)
            await _wait_for_end(work)
            has_result = not work.cancelled() and work.exception() is None
            if has_result and discard is not None:
                discard(work.result())
            raise
    finally:
        os.close(cancel_fd)


async def _wait_for_end(work: asyncio.Future[T]) -> None:
    """Wait for a call that was told to stop, however often we are cancelled meanwhile."""
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            continue


# --- processes ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpawnRequest:
    """A program to run, with everything it inherits.

    Args: executable: absolute path. argv: with argv[0]. env: all of it. fds: number in the program
    (3 or more) to our descriptor. output_fd: its stdout and stderr; stdin is /dev/null. cgroup_fd:
    directory of a cgroup v2 to be born in, or -1. max_file_bytes: RLIMIT_FSIZE, 0 for none; writes
    past it fail with EFBIG. user: (uid, gid) to become, or None.
    """

    executable: str
    argv: Sequence[str]
    env: Mapping[str, str]
    fds: Mapping[int, int]
    output_fd: int
    cgroup_fd: int = -1
    max_file_bytes: int = 0
    user: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A running child. Owns `pidfd`; whoever holds it must reap the child."""

    pid: int
    pidfd: int


def spawn(request: SpawnRequest) -> Process:
    """Start a program as leader of a session of its own, in "/", with umask 077.

    Raises: ConfigError if the program cannot be executed or its identity not be taken;
    TransientError if the node has no room for it. Nothing is left behind.
    """
    try:
        pid, pidfd = _core.run_spawn(*_spawn_arguments(request))
    except OSError as exc:
        error = _spawn_error(exc.errno or 0, exc.strerror or "", request)
        raise error from exc
    return Process(pid, pidfd)


def kill(process: Process) -> int:
    """Kill and reap; closes nothing.

    Returns: the wait status as os.waitpid has it; -1 if it was reaped elsewhere.
    """
    status = ffi.new("int *", -1)
    rc = lib.spawn_kill(process.pidfd, status)
    if rc not in (0, -errno.ECHILD):
        raise OSError(-rc, os.strerror(-rc))
    return int(status[0])


def discard_process(process: Process) -> None:
    """Kill, reap and close: for `run(..., discard=)`."""
    try:
        kill(process)
    finally:
        os.close(process.pidfd)


def _spawn_arguments(request: SpawnRequest) -> _core._SpawnArguments:
    uid, gid = request.user or (None, None)
    return (
        os.fsencode(request.executable),
        [os.fsencode(word) for word in request.argv],
        [os.fsencode(f"{name}={value}") for name, value in request.env.items()],
        [(source, target) for target, source in request.fds.items()],
        request.output_fd,
        request.cgroup_fd,
        request.max_file_bytes,
        uid,
        gid,
    )


def _spawn_error(code: int, what: str, request: SpawnRequest) -> SnapStartError:
    message = f"{what} for {request.executable!r}: {os.strerror(code)}"
    if code == errno.ENOENT:
        return ConfigError(ErrorCode.QEMU_MISSING, message, hint="install it or correct its path")
    if code in (errno.EPERM, errno.EACCES):
        return ConfigError(ErrorCode.PERMISSION_DENIED, message, hint="run agentd with that right")
    if code in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return TransientError(ErrorCode.NODE_FULL, message, hint="end sessions or raise the limit")
    return PeerError(ErrorCode.VMM_FAILED, message)


# --- fork -----------------------------------------------------------------------------------------


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


class CallCancelledError(Exception):
    """The call was ended through its `cancel_fd`."""


def fork(request: ForkRequest, *, deadline_ns: int, cancel_fd: int = -1) -> ForkResult:
    """Start a VM from a snapshot, inject its identity, and wait until the guest has started.

    Raises: ForkError with VMM_FAILED, VMM_PROTOCOL, GUEST_NOT_READY, GUEST_PROTOCOL,
    GUEST_REJECTED or DEADLINE_EXCEEDED; ConfigError and TransientError as `spawn`;
    CallCancelledError.
    """
    answer = _core.run_fork(
        _spawn_arguments(request.spawn),
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
        return _spawn_error(-code, text.rsplit(":", 1)[0], request.spawn)
    if kind is _ForkKind.SYSTEM:
        return _system_error(-code, f"start a fork: {text}")
    if kind is _ForkKind.DEADLINE:
        waited = ErrorCode.GUEST_NOT_READY if stage <= ForkStage.GUEST else None
        return ForkError(waited or ErrorCode.DEADLINE_EXCEEDED, text, stage=stage)
    if kind is _ForkKind.GUEST_REJECTED:
        text = f"the guest rejected the session: {reason!r}: {text}"
    exit_status = None if status < 0 else status
    return ForkError(_FORK_CODES[kind], text, stage=stage, exit_status=exit_status)


def _system_error(code: int, what: str) -> SnapStartError:
    """Translate the errno of a system call of ours."""
    if code == errno.ENOMEM:
        return TransientError(ErrorCode.NO_MEMORY, what, hint="end sessions or add memory")
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TransientError(ErrorCode.DISK_FULL, what, hint="free space or remove templates")
    if code in (errno.EMFILE, errno.ENFILE):
        return TransientError(ErrorCode.NODE_FULL, what, hint="raise the limit of open files")
    if code == errno.ETIMEDOUT:
        return TransientError(ErrorCode.DEADLINE_EXCEEDED, what)
    return PermanentError(ErrorCode.INTERNAL, what)


# --- checkpoint -----------------------------------------------------------------------------------


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
    return _system_error(-code, message)


# --- images ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CopiedMemory:
    """What a copy saw.

    Args: data_bytes: in pages that are not zero. chunk_hashes: XXH3-64 as 16 hexadecimal digits,
    one per chunk, over (page index as 8 little-endian bytes, page) of those pages.
    """

    data_bytes: int
    chunk_hashes: tuple[str, ...]


def copy_memory(
    src_fd: int,
    dst_fd: int,
    size_bytes: int,
    chunk_bytes: int = CHUNK_BYTES,
    *,
    deadline_ns: int = NEVER_NS,
    cancel_fd: int = -1,
) -> CopiedMemory:
    """Copy a memory image without its zero pages, hashing it on the way.

    Args: src_fd: a file or memfd of at least size_bytes; its holes stay holes. dst_fd: an empty
    one, which gets size_bytes and holes, or -1 to hash only. Both sizes are multiples of the page.
    Seals, fsync and rename are the caller's.
    Raises: OSError: ENODATA if the source is too short, ENOTEMPTY if the destination holds data,
    ECANCELED, ETIMEDOUT, ENOSPC, EIO. The destination is then half-written.
    """
    if size_bytes < 0 or chunk_bytes <= 0:
        raise ValueError(f"cannot copy {size_bytes} bytes in chunks of {chunk_bytes}")
    count = lib.seal_chunks(size_bytes, chunk_bytes)
    hashes = ffi.new("uint64_t[]", count)
    limits = ffi.new("struct limits *", (deadline_ns, cancel_fd))
    result = ffi.new("struct seal_result *")
    rc = lib.seal_copy(src_fd, dst_fd, size_bytes, chunk_bytes, limits, hashes, result)
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return CopiedMemory(result.data_bytes, tuple(f"{value:016x}" for value in hashes))


# --- clock ----------------------------------------------------------------------------------------

_TSC_WINDOW_NS = 20_000_000


def measure_tsc_khz() -> int:
    """Measure how fast this host's time-stamp counter runs; blocks for 20 ms.

    Returns: kHz, repeatable to about 10 ppm; 0 on a host that has no such counter.
    """
    khz = ffi.new("uint64_t *", 0)
    lib.tsc_measure(_TSC_WINDOW_NS, khz)
    return int(khz[0])


# --- inject ---------------------------------------------------------------------------------------


def wait_ready(path: str, *, deadline_ns: int, cancel_fd: int = -1) -> int:
    """Wait until a runtime listens on a Unix socket and has sent CAPABILITIES.

    Returns: the connected socket, owned by the caller; CAPABILITIES is still in it, so that it can
    go to `inject`.
    Raises: OSError (ENOENT: no such directory, ENAMETOOLONG, EPROTO: somebody else listens there);
    PeerError GUEST_NOT_READY at the deadline; CallCancelledError.
    """
    answer = _core.run_wait_ready(os.fsencode(path), deadline_ns, cancel_fd)
    if answer >= 0:
        return answer
    if -answer == errno.ETIMEDOUT:
        message = f"nobody was ready on {path!r} in time"
        raise PeerError(ErrorCode.GUEST_NOT_READY, message)
    if -answer == errno.ECANCELED:
        raise CallCancelledError(f"waiting for {path!r}")
    raise OSError(-answer, os.strerror(-answer), path)


def close_idle_watches() -> int:
    """Close the inotify instances that `wait_ready` keeps for the next call, 16 at most.

    The kernel makes whoever closes one wait for some milliseconds (native/core/watch.h), hence they
    are kept. Nobody has to call this: the process's end closes them too.
    Returns: how many there were.
    """
    return _core.close_idle_watches()


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
