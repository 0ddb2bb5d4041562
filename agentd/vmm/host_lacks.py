"""Recognise, in a monitor's refusal, that its host lacks something."""

from __future__ import annotations

from typing import Final

from agentd.errors import ErrorCode, TransientError

# How the innermost reason ends, with the number of the error (Rust's io::Error).
_LACKS: Final = {
    "(os error 12)": ErrorCode.NO_MEMORY,
    "(os error 23)": ErrorCode.NODE_FULL,
    "(os error 24)": ErrorCode.NODE_FULL,
    "(os error 27)": ErrorCode.DISK_FULL,
    "(os error 28)": ErrorCode.DISK_FULL,
    "(os error 122)": ErrorCode.DISK_FULL,
}


def host_lacks(said: str, message: str) -> TransientError | None:
    """The error for what a monitor said, None if the host lacks nothing. message: of the error."""
    for mark, code in _LACKS.items():
        if mark in said:
            return TransientError(code, message, hint="end sessions or give the host more")
    return None
