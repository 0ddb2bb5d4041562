"""Start a program with descriptors, kill it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentd import _core
from agentd._cold import ffi, lib
from agentd.errors import ConfigError, ErrorCode, PeerError, SnapStartError, TransientError


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
        pid, pidfd = _core.run_spawn(*spawn_arguments(request))
    except OSError as exc:
        error = spawn_error(exc.errno or 0, exc.strerror or "", request)
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


def spawn_arguments(request: SpawnRequest) -> _core._SpawnArguments:
    """The request as the core takes it."""
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


def spawn_error(code: int, what: str, request: SpawnRequest) -> SnapStartError:
    """Translate the errno of a program that could not be started."""
    message = f"{what} for {request.executable!r}: {os.strerror(code)}"
    if code == errno.ENOENT:
        return ConfigError(
            ErrorCode.MONITOR_MISSING, message, hint="install it or correct its path"
        )
    if code in (errno.EPERM, errno.EACCES):
        return ConfigError(ErrorCode.PERMISSION_DENIED, message, hint="run agentd with that right")
    if code in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return TransientError(ErrorCode.NODE_FULL, message, hint="end sessions or raise the limit")
    return PeerError(ErrorCode.VMM_FAILED, message)
