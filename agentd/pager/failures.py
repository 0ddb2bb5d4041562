"""Turn the page server's refusals into errors."""

from __future__ import annotations

from pathlib import Path

from agentd.errors import (
    ConfigError,
    ErrorCode,
    InvariantError,
    PeerError,
    PermanentError,
    SnapStartError,
    TransientError,
)
from agentd.wire.pager import Refusal

START_ANEW = "end that machine and start it anew"


def pager_error(what: str, refusal: Refusal) -> SnapStartError:
    """The error for a refusal. what: was asked, of which machine."""
    said = f"{what}: {refusal.message or refusal.error}"
    match refusal.error:
        case "unknown":
            return TransientError(ErrorCode.VMM_FAILED, said, hint=START_ANEW)
        case "stopped":
            return PermanentError(ErrorCode.VMM_FAILED, said, hint="the reason says what to repair")
        case "image":
            hint = "remove the template, build it again"
            return PermanentError(ErrorCode.TEMPLATE_CORRUPT, said, hint=hint)
        case "timeout":
            return TransientError(ErrorCode.DEADLINE_EXCEEDED, said, hint=START_ANEW)
        case "hand_over":
            return TransientError(ErrorCode.VMM_PROTOCOL, said, hint=START_ANEW)
        case "system":
            hint = "free memory or descriptors of the node; look at the page server's log"
            return TransientError(ErrorCode.NODE_FULL, said, hint=hint)
        case "invalid" | "exists":
            return InvariantError(said)
    return PeerError(ErrorCode.VMM_PROTOCOL, f"{said} ({refusal.error!r}, a word unknown here)")


def no_record(what: str, refusal: Refusal) -> TransientError:
    """The machine is served on; only what was recorded of it is gone."""
    message = f"{what}: {refusal.message or refusal.error}"
    return TransientError(ErrorCode.VMM_FAILED, message, hint="record another fork")


def absent(what: str, path: Path, why: str) -> TransientError:
    """Nobody answered until the deadline. why: what the last try met."""
    return TransientError(
        ErrorCode.DEADLINE_EXCEEDED,
        f"{what}: the page server at {str(path)!r} did not answer in time: {why}",
        hint="`snapctl doctor --pager` looks at it; its log says why it ended",
    )


def not_permitted(what: str, path: Path, why: str) -> ConfigError:
    """The socket is not for this user."""
    return ConfigError(
        ErrorCode.PERMISSION_DENIED,
        f"{what}: connecting to the page server at {str(path)!r}: {why}",
        hint="run agentd as root or as the page server's user",
    )


def unusable(what: str, path: Path, why: str) -> ConfigError:
    """The path is none that a socket can have."""
    return ConfigError(
        ErrorCode.CONFIG_INVALID,
        f"{what}: connecting to the page server at {str(path)!r}: {why}",
        hint="correct pager.control_socket",
    )


def misspoken(what: str, got: str) -> PeerError:
    """What came back is no answer."""
    return PeerError(
        ErrorCode.VMM_PROTOCOL,
        f"{what}: the page server sent {got}",
        hint="do agentd and snap-pager have the same version?",
    )
