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
