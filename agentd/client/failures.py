"""Turn what went wrong between a client and the daemon into the errors of agentd."""

from __future__ import annotations

import os

import msgspec

from agentd.errors import (
    ConfigError,
    ErrorCode,
    InvariantError,
    PeerError,
    PermanentError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.wire import api

_START_HINT = (
    "start it with `systemctl start agentd` or `agentd serve`, "
    "or name its socket with --socket or SNAPSTART_SOCKET"
)
_BROKEN_HINT = (
    "look at `journalctl -u agentd`; when it runs again, `snapctl session list` shows what is left"
)

_BY_CLASS: dict[type[SnapStartError], tuple[ErrorCode, ...]] = {
    ConfigError: (
        ErrorCode.CONFIG_INVALID,
        ErrorCode.MONITOR_MISSING,
        ErrorCode.IMAGE_INVALID,
        ErrorCode.PACKAGES_UNAVAILABLE,
        ErrorCode.PERMISSION_DENIED,
        ErrorCode.PROVIDER_UNABLE,
    ),
    UsageError: (
        ErrorCode.NAME_INVALID,
        ErrorCode.REQUEST_INVALID,
        ErrorCode.TEMPLATE_NOT_FOUND,
        ErrorCode.TEMPLATE_EXISTS,
        ErrorCode.TEMPLATE_IN_USE,
        ErrorCode.TEMPLATE_NOT_READY,
        ErrorCode.SESSION_NOT_FOUND,
        ErrorCode.SESSION_ENDED,
        ErrorCode.EXECUTION_TIMEOUT,
        ErrorCode.FILE_NOT_FOUND,
        ErrorCode.RESULT_TOO_LARGE,
        ErrorCode.OBJECT_NOT_FOUND,
        ErrorCode.OBJECT_EXISTS,
    ),
    PeerError: (
        ErrorCode.GUEST_NOT_READY,
        ErrorCode.GUEST_PROTOCOL,
        ErrorCode.GUEST_CONTAMINATED,
        ErrorCode.GUEST_REJECTED,
        ErrorCode.INTERPRETER_DIED,
        ErrorCode.VMM_FAILED,
        ErrorCode.VMM_PROTOCOL,
        ErrorCode.PROVIDER_FAILED,
        ErrorCode.PROVIDER_PROTOCOL,
    ),
    PermanentError: (
        ErrorCode.TEMPLATE_CORRUPT,
        ErrorCode.TEMPLATE_INCOMPATIBLE,
        ErrorCode.TEMPLATE_BUILD_FAILED,
    ),
    TransientError: (
        ErrorCode.NODE_FULL,
        ErrorCode.NO_MEMORY,
        ErrorCode.DISK_FULL,
        ErrorCode.AGENT_UNREACHABLE,
        ErrorCode.CLUSTER_UNREACHABLE,
        ErrorCode.PROVIDER_UNREACHABLE,
        ErrorCode.SHUTTING_DOWN,
        ErrorCode.DEADLINE_EXCEEDED,
    ),
}
_CLASS_OF = {code: kind for kind, codes in _BY_CLASS.items() for code in codes}

# What the guest's file service may answer (guest protocol, section 4.4), in the daemon's codes.
_GUEST_CODES = {
    "not_found": ErrorCode.FILE_NOT_FOUND,
    "permission_denied": ErrorCode.PERMISSION_DENIED,
    "no_space": ErrorCode.DISK_FULL,
    "is_directory": ErrorCode.REQUEST_INVALID,
    "not_directory": ErrorCode.REQUEST_INVALID,
    "invalid_path": ErrorCode.REQUEST_INVALID,
    "result_too_large": ErrorCode.RESULT_TOO_LARGE,
}


def error_of(body: api.ErrorBody, *, delay_s: float = 1.0) -> SnapStartError:
    """The error of the class its code belongs to, with the daemon's own message and hint.

    Args: body: the `error` member of a reply. delay_s: seconds to wait, for errors worth a retry.
    """
    try:
        code = ErrorCode(body.code)
    except ValueError:
        code = _GUEST_CODES.get(body.code, ErrorCode.INTERNAL)
        if code is ErrorCode.INTERNAL:
            return PeerError(code, f"{body.message} ({body.code})", hint=body.hint)
    if code is ErrorCode.INTERNAL:
        return InvariantError(body.message)
    if _CLASS_OF[code] is TransientError:
        return TransientError(code, body.message, hint=body.hint, delay_s=delay_s)
    return _CLASS_OF[code](code, body.message, hint=body.hint)


def refusal(what: str, status: int, body: bytes, retry_after: str | None) -> SnapStartError:
    """The error of a reply whose status is not a success.

    Args: what: the attempt, in words. status: HTTP status. body: as received. retry_after: the
    header of that name, or None.
    """
    try:
        reply = msgspec.json.decode(body, type=api.ErrorReply)
    except msgspec.MsgspecError:
        return PeerError(
            ErrorCode.AGENT_UNREACHABLE,
            f"{what}: the answer was HTTP {status} with {body[:80]!r}, which agentd does not send",
            hint="another program may be listening on this socket; check --socket",
        )
    return error_of(reply.error, delay_s=_seconds(retry_after))


def _seconds(retry_after: str | None) -> float:
    try:
        return max(0.0, float(retry_after or 1.0))
    except ValueError:
        return 1.0


def unreachable(what: str, socket_path: str, exc: OSError) -> SnapStartError:
    """The error of a connection that could not be made."""
    if isinstance(exc, PermissionError):
        return ConfigError(
            ErrorCode.PERMISSION_DENIED,
            f"{what}: user {os.geteuid()} may not use the socket {socket_path!r} of agentd",
            hint="join the group that owns the socket, or run as that user",
        )
    reason = "there is no such socket" if isinstance(exc, FileNotFoundError) else exc.strerror
    if isinstance(exc, ConnectionRefusedError):
        reason = "nobody listens on it"
    return TransientError(
        ErrorCode.AGENT_UNREACHABLE,
        f"{what}: cannot reach agentd at {socket_path!r}: {reason or exc}",
        hint=_START_HINT,
    )


def broken(what: str, socket_path: str, detail: object) -> SnapStartError:
    """The error of a connection that ended before the reply was complete."""
    return TransientError(
        ErrorCode.AGENT_UNREACHABLE,
        f"{what}: agentd at {socket_path!r} hung up before its reply was complete ({detail})",
        hint=_BROKEN_HINT,
    )


def late(what: str, timeout_s: float | None) -> SnapStartError:
    """The error of a reply that did not come in time."""
    waited = "in time" if timeout_s is None else f"within {timeout_s:g} s"
    return TransientError(
        ErrorCode.DEADLINE_EXCEEDED,
        f"{what}: agentd did not finish answering {waited}",
        hint="wait longer, or see `snapctl top` for what the node is busy with",
    )


def unreadable(what: str, exc: Exception) -> SnapStartError:
    """The error of a reply that is not what the local API promises."""
    return PeerError(
        ErrorCode.INTERNAL,
        f"{what}: agentd's reply is not understood: {exc}",
        hint="client and daemon may be of different versions; compare `snapctl --version` with "
        "`snapctl doctor`",
    )


def oversized(what: str, limit_bytes: int) -> SnapStartError:
    """The error of a reply that is larger than the client is willing to hold."""
    return UsageError(
        ErrorCode.RESULT_TOO_LARGE,
        f"{what}: the reply exceeds the {limit_bytes >> 20} MiB this client accepts",
        hint="write large data to a file in the session and copy that out",
    )
