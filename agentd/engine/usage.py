"""Measure what processes use on this host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from agentd.errors import InvariantError
from agentd.units import KIB

_MEMINFO_HEAD_BYTES: Final = 256


@dataclass(frozen=True)
class ProcessUsage:
    """rss_bytes counts shared pages in full, pss_bytes by share, private_bytes: see
    `read_private_bytes`.
    """

    rss_bytes: int
    pss_bytes: int
    private_bytes: int
    cpu_s: float


def read_private_bytes(pid: int) -> int:
    """What a process has allocated for itself: `Anonymous` of /proc/PID/smaps_rollup (proc(5)).

    Of a fork these are the template's pages it has written, copied for it, and what the monitor
    allocated. A page of the template that it merely read stays the template's, even while no other
    process maps it; the unique set size (USS) would count that one.
    Blocks: the kernel walks the page tables. Raises: OSError when the process is gone or another's.
    """
    return _read_rollup(pid)["Anonymous"]


def _read_rollup(pid: int) -> Mapping[str, int]:
    """The sums over all mappings of a process, in bytes. Raises: OSError."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rows = (line.split() for line in text.splitlines() if line.endswith(" kB"))
    sums = {row[0].rstrip(":"): int(row[1]) * KIB for row in rows}
    if "Anonymous" not in sums:  # a zombie has no memory to sum up
        raise ProcessLookupError(f"process {pid} has ended")
    return sums


def measure(pid: int) -> ProcessUsage | None:
    """What one process uses, None when it is gone. Blocks: the kernel walks its page tables."""
    try:
        sums = _read_rollup(pid)
        cpu = psutil.Process(pid).cpu_times()
    except (OSError, psutil.Error):
        return None
    return ProcessUsage(sums["Rss"], sums["Pss"], sums["Anonymous"], cpu.user + cpu.system)


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
    with open("/proc/meminfo", "rb", buffering=0) as file:
        return parse_available(file.read(_MEMINFO_HEAD_BYTES))


def parse_available(meminfo: bytes) -> int:
    """MemAvailable in bytes; it is the third line since Linux 3.14."""
    _, found, rest = meminfo.partition(b"MemAvailable:")
    if not found:
        raise InvariantError(f"/proc/meminfo begins without MemAvailable: {meminfo[:120]!r}")
    return int(rest.split(None, 1)[0]) * KIB
