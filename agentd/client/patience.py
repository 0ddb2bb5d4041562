"""Decide whether a call is sent once more because the daemon was replaced under it.

An upgrade takes the daemon away for seconds; its sessions go on. A client that it has served before
waits for the successor. What may be sent again without being done twice:

- what could not be connected: nothing was sent;
- what was cut off with ECONNRESET or EPIPE before a reply. A Unix socket says so only if its peer
  closed it with bytes unread, or before they came (net/unix/af_unix.c, unix_release_sock()): the
  daemon never had the whole request;
- what changes nothing: GET.

A request that was read and then lost its daemon is not sent again: its code may go on in the guest.
"""

from __future__ import annotations

import errno
from typing import Final, TypeVar

from agentd.client.calls import Call, Upload

T = TypeVar("T")

RETURN_S: Final = 30.0
LOOK_EVERY_S: Final = 0.05
_AWAY: Final = frozenset({errno.ENOENT, errno.ECONNREFUSED})
_UNREAD: Final = frozenset({errno.ECONNRESET, errno.EPIPE})


def is_away(reason: OSError) -> bool:
    """Whether nobody listens, as between a daemon and its successor."""
    return reason.errno in _AWAY


def is_unread(reason: OSError) -> bool:
    """Whether a connection without a reply ended before the daemon had read the request."""
    return reason.errno in _UNREAD


class Patience:
    """What one call may still do. was_served: the daemon has answered this client before."""

    def __init__(self, call: Call[T], *, was_served: bool, now_s: float) -> None:
        self._is_waiting = was_served
        # Of an upload none, whose file has moved on. Else one for a kept connection that had ended
        # unseen, one for a connection that the old daemon never accepted.
        self._repeats = 0 if isinstance(call.body, Upload) else 2
        self._is_harmless = call.method == "GET"
        self._until_s = now_s + min(RETURN_S, call.timeout_s or RETURN_S)

    def may_wait(self, reason: OSError, now_s: float) -> bool:
        """Whether to look again in a moment for a daemon that could not be connected to."""
        return self._is_waiting and is_away(reason) and now_s < self._until_s

    def may_repeat(self, reason: OSError | None) -> bool:
        """Whether to send on another connection. reason: None if the connection ended in order,
        without a reply.
        """
        is_safe = self._is_harmless or (reason is not None and is_unread(reason))
        if not (self._repeats and is_safe):
            return False
        self._repeats -= 1
        self._is_waiting = True
        return True
