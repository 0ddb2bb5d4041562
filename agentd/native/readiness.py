"""Wait until a runtime listens."""

from __future__ import annotations

import errno
import os

from agentd import _core
from agentd.errors import ErrorCode, PeerError
from agentd.native.calls import CallCancelledError


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
