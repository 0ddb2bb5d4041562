"""Say to callers what went wrong, in words of our own.

What a provider said may hold paths or names that are none of a caller's business: it goes into the
log. The control planes of the first form look for `not_found` and for `template_in_use` anywhere in
the body of a refusal, so no other one may hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from agentd.errors import ErrorCode, SnapStartError, TransientError

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class RefusedError(Exception):
    """A reply other than success.

    Args: status: of HTTP. code: for programs. message: for people. retry_s: try again after
    that many seconds; 0 is not said. headers: of the reply. detail: for the log alone.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_s: float = 0.0,
        headers: Mapping[str, str] = _NONE,
        detail: str = "",
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.retry_s = retry_s
        self.headers = headers
        self.detail = detail


_TIMED_OUT: Final = (
    504,
    "timeout",
    "the provider did not answer in time; a snapshot that was begun goes on",
)
_OTHER: Final = (502, "provider_error", "the provider failed; this node's log says how")
_TABLE: Final[dict[ErrorCode, tuple[int, str, str]]] = {
    ErrorCode.TEMPLATE_NOT_FOUND: (404, "not_found", "there is no such template"),
    ErrorCode.TEMPLATE_IN_USE: (409, "template_in_use", "sandboxes run from it; end them first"),
    ErrorCode.TEMPLATE_EXISTS: (
        409,
        "template_exists",
        "there is a snapshot of that key which was not ordered here; this node's log says more",
    ),
    ErrorCode.TEMPLATE_NOT_READY: (
        409,
        "template_busy",
        "an earlier order of that key may still be carried out; try again later",
    ),
    ErrorCode.REQUEST_INVALID: (
        409,
        "sandbox_unfit",
        "that sandbox cannot be made a template; this node's log says why",
    ),
    ErrorCode.GUEST_NOT_READY: (
        409,
        "sandbox_not_ready",
        "that sandbox does not wait at its checkpoint yet; try again later",
    ),
    ErrorCode.GUEST_CONTAMINATED: (
        409,
        "sandbox_contaminated",
        "that sandbox holds state of a user; build another one",
    ),
    ErrorCode.PROVIDER_UNABLE: (
        502,
        "provider_unable",
        "this node's provider cannot do that as it is set up; this node's log says why",
    ),
    ErrorCode.NODE_FULL: (502, "provider_full", "the provider has no room for another template"),
    ErrorCode.DEADLINE_EXCEEDED: _TIMED_OUT,
    ErrorCode.INTERNAL: (500, "internal", "a defect of this node's agent; its log says more"),
}


def refusal_of(error: SnapStartError) -> RefusedError:
    """The reply that an error of the provider, or of ours, stands for."""
    if error.code is ErrorCode.NAME_INVALID:
        # Only ever about what the caller wrote itself, which stays out of the log.
        return RefusedError(400, "bad_request", error.message)
    status, code, message = _TABLE.get(error.code, _OTHER)
    retry_s = error.delay_s if isinstance(error, TransientError) else 0.0
    return RefusedError(status, code, message, retry_s=retry_s, detail=str(error))


def timed_out() -> RefusedError:
    """The reply when our own patience with the provider ends."""
    status, code, message = _TIMED_OUT
    return RefusedError(status, code, message, detail="the call as a whole took too long")
