"""Read how much processor time the host of this machine took away."""

from __future__ import annotations

import os
from pathlib import Path

# user, nice, system, idle, iowait, irq, softirq, steal (Linux proc.rst, 1.7)
_STEAL = 8


def read_steal_ms() -> float:
    """Milliseconds since the start of the machine, of all processors."""
    line = Path("/proc/stat").read_text("ascii").split("\n", 1)[0]
    return int(line.split()[_STEAL]) * 1e3 / os.sysconf("SC_CLK_TCK")


def steal_share(took_s: float, stolen_ms: float) -> float:
    """Of all processor time meanwhile, 0 to 1: the clocks of both do not end at one instant."""
    share = stolen_ms / (1e3 * took_s * (os.cpu_count() or 1))
    return min(max(share, 0.0), 1.0)
