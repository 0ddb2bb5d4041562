"""Keep what this process knows out of core dumps, out of other processes' reach."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h
# Handlers such as systemd-coredump get a dump whatever the limit is, but for 1 (core(5)); no file
# of one byte is ever written.
_NO_CORE: Final = 1


def keep_memory_private() -> None:
    """No core dump from here on, nor of children; no other process of this user may look in.

    What runs through the daemon is in its memory: code, files, environments of sessions, tokens.
    PR_SET_DUMPABLE also keeps ptrace(2) and /proc/PID/mem from all but CAP_SYS_PTRACE.
    Raises: OSError.
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    core = 0 if hard == 0 else _NO_CORE  # who has a limit of 0 may not raise it
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "PR_SET_DUMPABLE")
