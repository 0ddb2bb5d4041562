"""Tell failures that end a task from those that are worth another attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentd.errors import ErrorCode, SnapStartError
from controlplane.api.builds import CONTAMINATED, PROTOCOL_NOT_SUPPORTED

_FINAL: Final = frozenset(
    {
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
    """What became of an attempt. message: for the task's status. event: its reason."""

    message: str
    is_final: bool
    event: str = "DriverCreateFailed"


def classify_failure(error: Exception) -> Failure:
    """What an exception of a driver means; what is not known for sure is not final."""
    if lacks_protocol(error):
        return Failure(f"{PROTOCOL_NOT_SUPPORTED}: {error}", is_final=True)
    if isinstance(error, SnapStartError):
        if error.code is ErrorCode.GUEST_CONTAMINATED:
            return Failure(f"{CONTAMINATED}: {error}", is_final=True, event=CONTAMINATED)
        return Failure(str(error), error.code in _FINAL)
    if isinstance(error, TimeoutError):
        return Failure("the driver did not finish in time", is_final=False)
    return Failure(f"the driver failed: {error!r}", is_final=False)


def choose_waiting_reason(error: Exception) -> str:
    """What a Pod waits for whose machine did not come up."""
    return PROTOCOL_NOT_SUPPORTED if lacks_protocol(error) else "RunContainerError"


def lacks_protocol(error: Exception) -> bool:
    """What answers in the guest does not speak its protocol, and the image will not change."""
    return isinstance(error, SnapStartError) and error.code is ErrorCode.GUEST_PROTOCOL
