"""Tell failures that end a task from those that are worth another attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentd.errors import ErrorCode, SnapStartError

_FINAL: Final = frozenset(
    {
        ErrorCode.GUEST_CONTAMINATED,
        ErrorCode.GUEST_REJECTED,
        ErrorCode.IMAGE_INVALID,
        ErrorCode.NAME_INVALID,
        ErrorCode.REQUEST_INVALID,
        ErrorCode.TEMPLATE_BUILD_FAILED,
        ErrorCode.TEMPLATE_CORRUPT,
        ErrorCode.TEMPLATE_EXISTS,
        ErrorCode.TEMPLATE_INCOMPATIBLE,
    }
)


@dataclass(frozen=True)
class Failure:
    """What became of an attempt. message: for the task's status."""

    message: str
    is_final: bool
    is_contamination: bool = False


def classify_failure(error: Exception) -> Failure:
    """What an exception of a driver means; what is not known for sure is not final."""
    if isinstance(error, SnapStartError):
        return Failure(str(error), error.code in _FINAL, error.code is ErrorCode.GUEST_CONTAMINATED)
    if isinstance(error, TimeoutError):
        return Failure("the driver did not finish in time", is_final=False)
    return Failure(f"the driver failed: {error!r}", is_final=False)
