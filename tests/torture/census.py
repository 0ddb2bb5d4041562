"""Count what processes hold, in proc(5)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from pathlib import Path
from typing import Final

# However long one look took.
_LOOKS: Final = 4


def list_fds(pid: int) -> Counter[str]:
    """What a process has open: how often each file, or each kind of what is none."""
    found: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[os.readlink(f"/proc/{pid}/fd/{name}").split(":[")[0]] += 1
    return found


async def always_open(pid: int, for_s: float = 0.5) -> Counter[str]:
    """What a process has open all that time: without a connection that is about to close."""
    found, until, looks = list_fds(pid), time.monotonic() + for_s, 0
    while time.monotonic() < until or looks < _LOOKS:
        await asyncio.sleep(0.05)
        found &= list_fds(pid)
        looks += 1
    return found


async def left_open(pid: int, before: Counter[str], patience_s: float = 20.0) -> Counter[str]:
    """What a process has open beyond before, and does not close.

    It sees a little later than we that a connection of ours is closed: that is no leak.
    """
    give_up = time.monotonic() + patience_s
    while (more := list_fds(pid) - before) and time.monotonic() < give_up:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.05)
    return more


def list_marked(mark: str) -> set[int]:
    """The processes with SNAP_TORTURE=mark in their environment: all that a run started."""
    found, wanted = set(), f"SNAP_TORTURE={mark}".encode()
    for name in os.listdir("/proc"):
        # A process may end meanwhile; a zombie's environment is empty.
        with contextlib.suppress(OSError):
            if name.isdigit() and wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.add(int(name))
    return found
