"""Measure this host's time-stamp counter."""

from __future__ import annotations

from agentd._cold import ffi, lib

_TSC_WINDOW_NS = 20_000_000


def measure_tsc_khz() -> int:
    """Measure how fast this host's time-stamp counter runs; blocks for 20 ms.

    Returns: kHz, repeatable to about 10 ppm; 0 on a host that has no such counter.
    """
    khz = ffi.new("uint64_t *", 0)
    lib.tsc_measure(_TSC_WINDOW_NS, khz)
    return int(khz[0])
