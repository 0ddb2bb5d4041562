"""Turn an API server's refusals into this program's errors."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    ControlPlaneError,
    ExpiredError,
    ForbiddenError,
    NotFoundError,
    PeerError,
    RejectedError,
    UnavailableError,
)

_MESSAGE_MAX: Final = 2000
_DELAY_MAX_S: Final = 60.0


class _Details(msgspec.Struct):
    retryAfterSeconds: float = 0.0  # noqa: N815 - the wire's name


class _Status(msgspec.Struct):
    """metav1.Status, the part that is read here; what is not one decodes to nothing."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


def status_error(what: str, code: int, body: bytes, retry_after: str = "") -> ControlPlaneError:
    """The error for an answer that is not 2xx, or for an ERROR event of a watch.

    Args: what: the call and its object. code: HTTP status; 0: take it from the body. body: a
    metav1.Status, or whatever a proxy in between sent. retry_after: the header, in seconds.
    """
    status = _decode(body)
    code = code or status.code
    text = status.message or body[:200].decode("utf-8", "replace").strip()
    message = f"{what}: {code} {status.reason}: {text[:_MESSAGE_MAX]}"
    if code == 429 or code >= 500:
        return UnavailableError(message, delay_s=_delay_s(status, retry_after))
    if code == 409:
        is_there = status.reason == "AlreadyExists"
        return AlreadyExistsError(message) if is_there else ConflictError(message)
    if code == 401:
        return ForbiddenError(message, hint="check the credentials of this program")
    if code == 403:
        return ForbiddenError(
            message, hint="grant it in the role of this program, or see the quota"
        )
    if code == 404:
        return NotFoundError(message)
    if code == 410 or status.reason in ("Expired", "Gone"):
        return ExpiredError(message)
    return RejectedError(message) if 400 <= code < 500 else PeerError(message)


def connection_error(what: str, error: BaseException) -> UnavailableError:
    """The error for a connection that could not be made, broke, or timed out."""
    detail = str(error) or "no answer in time"
    return UnavailableError(f"{what}: {type(error).__name__}: {detail}")


def _decode(body: bytes) -> _Status:
    try:
        return msgspec.json.decode(body, type=_Status)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Status()


def _delay_s(status: _Status, retry_after: str) -> float:
    asked: Any = status.details.retryAfterSeconds if status.details else 0.0
    if retry_after.isdigit():
        asked = max(asked, float(retry_after))
    return min(max(float(asked), 0.0), _DELAY_MAX_S)
