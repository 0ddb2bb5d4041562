"""Bound how much callers may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentd.proxy.requests import Action


class TokenBucket:
    """Lets through a burst, then one every so often.

    Args: burst: how many at once, 1 or more. every_s: seconds that each one costs.
    """

    def __init__(self, burst: int, every_s: float) -> None:
        self._burst = burst
        self._every_s = every_s
        self._left = float(burst)
        self._seen_s: float | None = None

    def take(self, now_s: float) -> float:
        """Ask for one. now_s: monotonic. Returns: 0 if granted, else the seconds until it is."""
        past_s = 0.0 if self._seen_s is None else max(0.0, now_s - self._seen_s)
        self._seen_s = now_s
        self._left = min(float(self._burst), self._left + past_s / self._every_s)
        if self._left < 1.0:
            return (1.0 - self._left) * self._every_s
        self._left -= 1.0
        return 0.0


@dataclass(frozen=True)
class Rate:
    """See TokenBucket."""

    burst: int
    every_s: float


# A controller builds once for each SnapStart, then looks for orphans now and then; a storm is a
# defect of it. A snapshot writes all of a machine's memory, so it is the dear one.
RATES: Final = {
    Action.CREATE: Rate(10, 6.0),
    Action.DELETE: Rate(30, 1.0),
    Action.LIST: Rate(30, 1.0),
}
# One works and one waits: the driver gives one order at a time.
CREATES_MAX: Final = 2
CONNECTIONS_MAX: Final = 32
HEADERS_MAX: Final = 64
LINE_MAX_BYTES: Final = 8192


@dataclass(frozen=True)
class Deadlines:
    """How long each step of a call may take; seconds.

    header_s: TLS handshake; then request line with headers. body_s: the rest of the request.
    call_s: the provider's part, create_s if it makes a snapshot, which goes on all the same.
    answer_s: until the caller has read the reply. linger_s: for what it still sends then.
    """

    header_s: float = 5.0
    body_s: float = 30.0
    call_s: float = 30.0
    create_s: float = 600.0
    answer_s: float = 30.0
    linger_s: float = 2.0
