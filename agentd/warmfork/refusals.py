"""Translate what a guest refuses with into errors of ours."""

from __future__ import annotations

from typing import Final

from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError, UsageError

_MESSAGE_MAX_CHARS: Final = 1000

# RESET codes (section 2) first, then those of `failed` messages (section 4.4).
_REFUSALS: Final[dict[str, tuple[type[SnapStartError], ErrorCode, str]]] = {
    "unknown_service": (PeerError, ErrorCode.GUEST_PROTOCOL, "rebuild the guest image"),
    "flow_control": (PeerError, ErrorCode.GUEST_PROTOCOL, ""),
    "too_many_streams": (TransientError, ErrorCode.NODE_FULL, "try again later"),
    "gate_closed": (PeerError, ErrorCode.GUEST_NOT_READY, "inject an identity first"),
    "gate_open": (PeerError, ErrorCode.GUEST_REJECTED, "the VM is a session already"),
    "not_found": (UsageError, ErrorCode.FILE_NOT_FOUND, ""),
    "is_directory": (UsageError, ErrorCode.REQUEST_INVALID, "name a file"),
    "not_directory": (UsageError, ErrorCode.REQUEST_INVALID, "name a directory"),
    "invalid_path": (UsageError, ErrorCode.REQUEST_INVALID, "use a path inside the workspace"),
    "bad_request": (UsageError, ErrorCode.REQUEST_INVALID, ""),
    "permission_denied": (UsageError, ErrorCode.PERMISSION_DENIED, ""),
    "no_space": (TransientError, ErrorCode.DISK_FULL, "remove files from the session"),
    "io_error": (PeerError, ErrorCode.GUEST_REJECTED, ""),
}


def refusal(what: str, code: str, message: str) -> SnapStartError:
    """The error for a guest's refusal of `what`; an unknown code is GUEST_REJECTED.

    The guest's own words are cut to a size that a log line can carry.
    """
    kind, ours, hint = _REFUSALS.get(code, (PeerError, ErrorCode.GUEST_REJECTED, ""))
    text = message[:_MESSAGE_MAX_CHARS] or "no message"
    return kind(ours, f"{what}: the guest answered {code[:64]!r}: {text}", hint=hint)
