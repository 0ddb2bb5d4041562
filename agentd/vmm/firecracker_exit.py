"""Say in words how a Firecracker ended (src/vmm/src/lib.rs of Firecracker, FcExitCode)."""

from __future__ import annotations

import re
from typing import Final

_STATUS: Final = re.compile(r"exited with status (\d+)")
_WORDS: Final = {
    0: "its guest ended",
    1: "an error of its own, see its log",
    2: "it did not expect what happened",
    148: "it made a system call that its filter does not allow",
    149: "SIGBUS: its memory file was cut short, or the host has no memory left for it",
    150: "SIGSEGV: a defect of its own",
    151: "SIGXFSZ: a file grew beyond what it may write",
    152: "its configuration is bad",
    153: "it does not know an argument that it was given",
    154: "SIGXCPU: it used up its time",
    155: "SIGPIPE: nobody reads what it writes",
    156: "SIGHUP: it was told to end",
    157: "SIGILL: a defect of its own, or another CPU",
}


def explain_exit(how: str) -> str:
    """How a process ended, with what its status means: "exited with status 148 (...)"."""
    match = _STATUS.fullmatch(how)
    words = _WORDS.get(int(match[1])) if match else None
    return f"{how} ({words})" if words else how
