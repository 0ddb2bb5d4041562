"""Turn what the operating system reports into the errors of the store."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from agentd.errors import (
    ConfigError,
    ErrorCode,
    PermanentError,
    SnapStartError,
    TransientError,
    UsageError,
)

_ALWAYS: Final[Mapping[int, ErrorCode]] = {
    errno.EACCES: ErrorCode.PERMISSION_DENIED,
    errno.EPERM: ErrorCode.PERMISSION_DENIED,
    errno.EROFS: ErrorCode.PERMISSION_DENIED,
    errno.ENOMEM: ErrorCode.NO_MEMORY,
    errno.EMFILE: ErrorCode.NODE_FULL,
    errno.ENFILE: ErrorCode.NODE_FULL,
    errno.EAGAIN: ErrorCode.NODE_FULL,  # no process more may be made (fork(2))
    errno.ECANCELED: ErrorCode.SHUTTING_DOWN,
}
OUT_OF_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
WRITING: Final[Mapping[int, ErrorCode]] = {
    **_ALWAYS,
    **dict.fromkeys(OUT_OF_SPACE, ErrorCode.DISK_FULL),
}
# Only what says that the bytes themselves are lost: a template must never be thrown away because
# the daemon ran out of file descriptors.
READING: Final[Mapping[int, ErrorCode]] = {
    **_ALWAYS,
    errno.ENOSPC: ErrorCode.NO_MEMORY,  # of the memfd being filled
    errno.ENOENT: ErrorCode.TEMPLATE_CORRUPT,
    errno.EIO: ErrorCode.TEMPLATE_CORRUPT,
    errno.EUCLEAN: ErrorCode.TEMPLATE_CORRUPT,
    errno.EBADMSG: ErrorCode.TEMPLATE_CORRUPT,
    errno.ENODATA: ErrorCode.TEMPLATE_CORRUPT,
}
_CLASSES: Final[Mapping[ErrorCode, type[SnapStartError]]] = {
    ErrorCode.CONFIG_INVALID: ConfigError,
    ErrorCode.PERMISSION_DENIED: ConfigError,
    ErrorCode.NO_MEMORY: TransientError,
    ErrorCode.NODE_FULL: TransientError,
    ErrorCode.DISK_FULL: TransientError,
    ErrorCode.SHUTTING_DOWN: TransientError,
}
_HINTS: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.PERMISSION_DENIED: "give the daemon's user the data directory, writable",
    ErrorCode.NO_MEMORY: "end sessions or give the machine more memory",
    ErrorCode.NODE_FULL: "end sessions, or raise the daemon's limits of open files and tasks",
    ErrorCode.DISK_FULL: "remove templates or give the data directory more space",
    ErrorCode.TEMPLATE_CORRUPT: "remove the template and build it again",
}


def classify_os_error(
    exc: OSError, doing: str, codes: Mapping[int, ErrorCode], otherwise: ErrorCode
) -> SnapStartError:
    """Choose the error for a failed system call.

    Args: doing: what was attempted, on which object. codes: WRITING or READING.
    """
    code = codes.get(exc.errno or 0, otherwise)
    reason = os.strerror(exc.errno) if exc.errno else str(exc)
    at = f" ({os.fsdecode(exc.filename)})" if isinstance(exc.filename, str | bytes) else ""
    error = _CLASSES.get(code, PermanentError)
    return error(code, f"{doing} failed: {reason}{at}", hint=_HINTS.get(code, ""))


@contextmanager
def translated(
    doing: str, codes: Mapping[int, ErrorCode], otherwise: ErrorCode = ErrorCode.INTERNAL
) -> Iterator[None]:
    """Translate every OSError of a block, see `classify_os_error`."""
    try:
        yield
    except OSError as exc:
        raise classify_os_error(exc, doing, codes, otherwise) from exc


def corrupt(name: str, what: str) -> PermanentError:
    """The error for a template whose bytes are not what was sealed."""
    return PermanentError(
        ErrorCode.TEMPLATE_CORRUPT,
        f"template {name!r} is damaged: {what}",
        hint=_HINTS[ErrorCode.TEMPLATE_CORRUPT],
    )


def not_found(name: str) -> UsageError:
    """The error for a template that is not there."""
    return UsageError(
        ErrorCode.TEMPLATE_NOT_FOUND, f"there is no template {name!r}", hint="build it first"
    )


def exists(name: str) -> UsageError:
    """The error for a name that is taken."""
    return UsageError(
        ErrorCode.TEMPLATE_EXISTS,
        f"template {name!r} exists already",
        hint="remove it first or choose another name",
    )
