"""Read how long the host kept this machine's processors for others."""

from __future__ import annotations

import os
from pathlib import Path

# The eighth number of the first line of /proc/stat, in ticks (proc_stat(5)).
_STEAL = 8


def steal_ms(stat: Path = Path("/proc/stat")) -> float:
    """Since boot, of all processors together."""
    ticks = int(stat.read_text().split("\n", 1)[0].split()[_STEAL])
    return 1000 * ticks / os.sysconf("SC_CLK_TCK")
