"""Count what processes hold, in proc(5)."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path


def list_fds(pid: int) -> Counter[str]:
    """What a process has open: how often each file, or each kind of what is none."""
    found: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[os.readlink(f"/proc/{pid}/fd/{name}").split(":[")[0]] += 1
    return found


def list_marked(mark: str) -> set[int]:
    """The processes with SNAP_TORTURE=mark in their environment: all that a run started."""
    found, wanted = set(), f"SNAP_TORTURE={mark}".encode()
    for name in os.listdir("/proc"):
        # A process may end meanwhile; a zombie's environment is empty.
        with contextlib.suppress(OSError):
            if name.isdigit() and wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.add(int(name))
    return found
