"""Compute how long to wait after failures."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Backoff:
    """Doubling delays. base_s: after the first failure. cap_s: never more. jitter: the share of a
    delay that is random, 0 to 1, so that many clients do not come back at once."""

    base_s: float = 0.1
    cap_s: float = 30.0
    jitter: float = 0.5

    def delay_s(self, failures: int, random: Random) -> float:
        """The delay after so many failures in a row, at least one."""
        full = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60))
        return full * (1.0 - self.jitter * random.random())
