"""The compiled shim over the C core. Import agentd.native, not this.

Every function releases the GIL while it runs and can be ended through `cancel_fd`.
"""

from typing import TypeAlias

def run_spawn(
    path: bytes,
    argv: list[bytes],
    env: list[bytes],
    fds: list[tuple[int, int]],
    output_fd: int,
    cgroup_fd: int,
    fsize_bytes: int,
    uid: int | None,
    gid: int | None,
) -> tuple[int, int]:
    """Start a program; returns (pid, pidfd), the pidfd owned by the caller.

    Raises OSError with the failing step as its text.
    """

_SpawnArguments: TypeAlias = tuple[
    bytes, list[bytes], list[bytes], list[tuple[int, int]], int, int, int, int | None, int | None
]
_ForkTimes: TypeAlias = tuple[int, int, int, int, int, int, int, int]

def run_fork(
    spawn_arguments: _SpawnArguments,
    qmp_fd: int,
    qmp_lines: bytes,
    qmp_replies: int,
    channel_fd: int,
    epoch: bytes,
    prepare: bytes,
    deadline_ns: int,
    cancel_fd: int,
) -> tuple[int, int, int, _ForkTimes, bytes, bytes] | tuple[int, int, int, int, str, str]:
    """Run native/core/fork.h.

    Returns (0, pid, pidfd, times, qmp_pending, channel_pending), or
    (kind, stage, code, wait_status, reason, text) with a kind over 0.
    """

def run_checkpoint(
    qmp_fd: int, is_negotiated: bool, state_fd: int, deadline_ns: int, cancel_fd: int
) -> tuple[int, tuple[int, int, int, int, int], bytes] | tuple[int, str]:
    """Run native/core/checkpoint.h; returns (0, times, pending) or (negative errno, text)."""

def run_wait_ready(path: bytes, deadline_ns: int, cancel_fd: int) -> int:
    """Run native/core/ready.h; returns a descriptor owned by the caller, or a negative errno."""

def close_idle_watches() -> int:
    """Run watch_close_idle of native/core/watch.h; returns how many were closed."""

def run_inject(
    targets: list[tuple[int, bytes | None, bytes | None, bool]],
    prepare_deadline_ns: int,
    commit_deadline_ns: int,
    cancel_fd: int,
) -> list[tuple[int, int, str, str, int, int]]:
    """Run native/core/inject.h over (fd, epoch of a mux channel or None, PREPARE or None, clock).

    Returns (status, phase, reason, text, ready_ns, started_ns) per target, in order.
    """
