"""Name every failure of the control plane by whose move it is."""

from __future__ import annotations


class ControlPlaneError(Exception):
    """Base of all.

    Args: message: what was attempted, on which object, what came back. hint: what to do next, empty
    when there is nothing the reader can do.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class ConfigError(ControlPlaneError):
    """The operator has to change a setting."""


class RejectedError(ControlPlaneError):
    """The caller, or the author of an object, has to change what they sent."""


class NotFoundError(ControlPlaneError):
    """The object is not there."""


class AlreadyExistsError(ControlPlaneError):
    """An object of that name is there already."""


class ConflictError(ControlPlaneError):
    """Somebody else wrote first: read again, decide again. Never write again blindly."""


class ExpiredError(ControlPlaneError):
    """The resource version is too old to go on from (410 Gone): list again."""


class ForbiddenError(ControlPlaneError):
    """The operator has to grant a permission."""


class PeerError(ControlPlaneError):
    """The other side broke its contract."""


class UnavailableError(ControlPlaneError):
    """The other side is away or overloaded. delay_s: how long it asked to be left alone, or 0."""

    def __init__(self, message: str, *, hint: str = "", delay_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.delay_s = delay_s


class CorruptError(ControlPlaneError):
    """What is stored does not parse, or belongs to somebody else: not used, not overwritten."""


class InvariantError(ControlPlaneError):
    """A defect of this program."""
