"""Measure what processes use on this host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from agentd.units import KIB


@dataclass(frozen=True)
class ProcessUsage:
    """rss_bytes counts shared pages in full, pss_bytes by share, private_bytes not at all."""

    rss_bytes: int
    pss_bytes: int
    private_bytes: int
    cpu_s: float


def measure(pid: int) -> ProcessUsage | None:
    """What one process uses, None when it is gone. Blocks: the kernel walks its page tables."""
    try:
        process = psutil.Process(pid)
        memory = process.memory_full_info()
        cpu = process.cpu_times()
    except psutil.Error:
        return None
    return ProcessUsage(memory.rss, memory.pss, memory.uss, cpu.user + cpu.system)


def measure_all(pids: Sequence[int]) -> list[ProcessUsage | None]:
    """As `measure`, in the order given."""
    return [measure(pid) for pid in pids]


def own_rss_bytes() -> int:
    """The resident size of this process."""
    return int(psutil.Process().memory_info().rss)


def total_memory_bytes() -> int:
    """The memory of this host."""
    return int(psutil.virtual_memory().total)


def available_memory_bytes() -> int:
    """MemAvailable (proc(5)): what new processes can get without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * KIB
    return int(psutil.virtual_memory().available)
