"""Keep what a guest of Firecracker writes to its console, which is its monitor's standard output.

In memory, of a size that is fixed from the start: a guest that writes more is not held up, its
monitor cannot write more, and needs no limit that its snapshots would have to exceed as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path
from typing import Final

from agentd.store.memfd import create_memfd
from agentd.units import MIB

CONSOLE_BYTES: Final = 4 * MIB
_TAIL_BYTES: Final = 4096
_SEALS: Final = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_POSITION: Final = re.compile(r"^pos:\s+(\d+)$", re.MULTILINE)


def create_console(vm_id: str) -> int:
    """A file for a machine's output; the caller owns it. It takes memory as it is written.

    Raises: OSError.
    """
    fd = create_memfd(f"{vm_id}-console")
    try:
        os.ftruncate(fd, CONSOLE_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_tail(fd: int) -> str:
    """The last text of a console that a process of ours inherited. fd: borrowed."""
    return _tail(fd, os.lseek(fd, 0, os.SEEK_CUR))  # the writer's position: it has the same file


def read_tail_of(pid: int) -> str:
    """The last text on the console of a running process; empty when it cannot be had."""
    with contextlib.suppress(OSError):
        fd = os.open(f"/proc/{pid}/fd/1", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            position = _POSITION.search(Path(f"/proc/{pid}/fdinfo/1").read_text())
            return _tail(fd, int(position[1])) if position else ""
        finally:
            os.close(fd)
    return ""


def _tail(fd: int, end: int) -> str:
    start = max(0, end - _TAIL_BYTES)
    return os.pread(fd, end - start, start).decode(errors="replace")
