"""Name every failure once, with whose move it is, its HTTP status, its exit code."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Outcome:
    http_status: int
    exit_code: int


class ErrorCode(enum.StrEnum):
    """Stable identifiers that programs may match on; messages are for people."""

    # operator
    CONFIG_INVALID = "config_invalid"
    MONITOR_MISSING = "monitor_missing"
    IMAGE_INVALID = "image_invalid"
    PACKAGES_UNAVAILABLE = "packages_unavailable"
    PERMISSION_DENIED = "permission_denied"
    PROVIDER_UNABLE = "provider_unable"
    # caller
    NAME_INVALID = "name_invalid"
    REQUEST_INVALID = "request_invalid"
    TEMPLATE_NOT_FOUND = "template_not_found"
    TEMPLATE_EXISTS = "template_exists"
    TEMPLATE_IN_USE = "template_in_use"
    TEMPLATE_NOT_READY = "template_not_ready"
    SESSION_NOT_FOUND = "session_not_found"
    SESSION_ENDED = "session_ended"
    EXECUTION_TIMEOUT = "execution_timeout"
    FILE_NOT_FOUND = "file_not_found"
    RESULT_TOO_LARGE = "result_too_large"
    OBJECT_NOT_FOUND = "object_not_found"
    OBJECT_EXISTS = "object_exists"
    # the other side
    GUEST_NOT_READY = "guest_not_ready"
    GUEST_PROTOCOL = "guest_protocol"
    GUEST_CONTAMINATED = "guest_contaminated"
    GUEST_REJECTED = "guest_rejected"
    INTERPRETER_DIED = "interpreter_died"
    VMM_FAILED = "vmm_failed"
    VMM_PROTOCOL = "vmm_protocol"
    PROVIDER_FAILED = "provider_failed"
    PROVIDER_PROTOCOL = "provider_protocol"
    # give up
    TEMPLATE_CORRUPT = "template_corrupt"
    TEMPLATE_INCOMPATIBLE = "template_incompatible"
    TEMPLATE_BUILD_FAILED = "template_build_failed"
    # retry
    NODE_FULL = "node_full"
    NO_MEMORY = "no_memory"
    DISK_FULL = "disk_full"
    AGENT_UNREACHABLE = "agent_unreachable"
    SHUTTING_DOWN = "shutting_down"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CLUSTER_UNREACHABLE = "cluster_unreachable"
    PROVIDER_UNREACHABLE = "provider_unreachable"
    # ours
    INTERNAL = "internal"

    @property
    def http_status(self) -> int:
        """The HTTP status the local API answers with."""
        return _OUTCOMES[self].http_status

    @property
    def exit_code(self) -> int:
        """The exit code of the command line, distinct per code and above the shell's own."""
        return _OUTCOMES[self].exit_code


_OUTCOMES: dict[ErrorCode, _Outcome] = {
    ErrorCode.INTERNAL: _Outcome(500, 10),
    ErrorCode.CONFIG_INVALID: _Outcome(500, 11),
    ErrorCode.MONITOR_MISSING: _Outcome(503, 12),
    ErrorCode.IMAGE_INVALID: _Outcome(422, 13),
    ErrorCode.PACKAGES_UNAVAILABLE: _Outcome(503, 14),
    ErrorCode.PERMISSION_DENIED: _Outcome(403, 15),
    ErrorCode.PROVIDER_UNABLE: _Outcome(503, 16),
    ErrorCode.NAME_INVALID: _Outcome(400, 20),
    ErrorCode.REQUEST_INVALID: _Outcome(400, 21),
    ErrorCode.TEMPLATE_NOT_FOUND: _Outcome(404, 22),
    ErrorCode.TEMPLATE_EXISTS: _Outcome(409, 23),
    ErrorCode.TEMPLATE_IN_USE: _Outcome(409, 24),
    ErrorCode.TEMPLATE_NOT_READY: _Outcome(409, 25),
    ErrorCode.SESSION_NOT_FOUND: _Outcome(404, 26),
    ErrorCode.SESSION_ENDED: _Outcome(410, 27),
    ErrorCode.EXECUTION_TIMEOUT: _Outcome(408, 28),
    ErrorCode.FILE_NOT_FOUND: _Outcome(404, 29),
    ErrorCode.RESULT_TOO_LARGE: _Outcome(413, 30),
    ErrorCode.OBJECT_NOT_FOUND: _Outcome(404, 31),
    ErrorCode.OBJECT_EXISTS: _Outcome(409, 32),
    ErrorCode.GUEST_NOT_READY: _Outcome(504, 40),
    ErrorCode.GUEST_PROTOCOL: _Outcome(502, 41),
    ErrorCode.GUEST_CONTAMINATED: _Outcome(422, 42),
    ErrorCode.GUEST_REJECTED: _Outcome(422, 43),
    ErrorCode.INTERPRETER_DIED: _Outcome(502, 44),
    ErrorCode.VMM_FAILED: _Outcome(502, 45),
    ErrorCode.VMM_PROTOCOL: _Outcome(502, 46),
    ErrorCode.PROVIDER_FAILED: _Outcome(502, 47),
    ErrorCode.PROVIDER_PROTOCOL: _Outcome(502, 48),
    ErrorCode.TEMPLATE_CORRUPT: _Outcome(422, 50),
    ErrorCode.TEMPLATE_INCOMPATIBLE: _Outcome(422, 51),
    ErrorCode.TEMPLATE_BUILD_FAILED: _Outcome(422, 52),
    ErrorCode.NODE_FULL: _Outcome(503, 60),
    ErrorCode.NO_MEMORY: _Outcome(507, 61),
    ErrorCode.DISK_FULL: _Outcome(507, 62),
    ErrorCode.AGENT_UNREACHABLE: _Outcome(503, 63),
    ErrorCode.SHUTTING_DOWN: _Outcome(503, 64),
    ErrorCode.DEADLINE_EXCEEDED: _Outcome(504, 65),
    ErrorCode.CLUSTER_UNREACHABLE: _Outcome(503, 66),
    ErrorCode.PROVIDER_UNREACHABLE: _Outcome(503, 67),
}


class SnapStartError(Exception):
    """A failure with a stable code.

    Args: code: what programs match on. message: what was attempted, on which object, what came
    back. hint: what to do next, empty when there is nothing the reader can do.
    """

    def __init__(self, code: ErrorCode, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # What Exception does, calling the class with `args`, fits no signature of this tree.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    kind: type[SnapStartError], args: tuple[Any, ...], members: dict[str, Any]
) -> SnapStartError:
    """An equal error, for pickle or copy."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(members)
    return error


class ConfigError(SnapStartError):
    """The operator has to change a setting, a package or a permission."""


class UsageError(SnapStartError):
    """The caller asked for something that cannot be."""


class PeerError(SnapStartError):
    """The other side (guest, VMM) broke the contract."""


class TransientError(SnapStartError):
    """Trying again later may succeed.

    Args: delay_s: seconds to wait before the next try.
    """

    def __init__(
        self, code: ErrorCode, message: str, *, hint: str = "", delay_s: float = 1.0
    ) -> None:
        super().__init__(code, message, hint=hint)
        self.delay_s = delay_s


class PermanentError(SnapStartError):
    """Trying again will not help; the object itself is unusable."""


class InvariantError(SnapStartError):
    """Our own assumption was broken: a defect of this program."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INTERNAL, message, hint="please report this as a defect")
