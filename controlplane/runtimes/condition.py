"""Word our condition on a CodeInterpreter."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Final, Self

import msgspec

from controlplane.api import names
from controlplane.api.meta import Camel, JsonObject
from controlplane.runtimes.types import CodeInterpreter

_KEEPER: Final = f"{names.TEMPLATE_KEEPER}={names.TEMPLATE_KEEPER_US}"
TYPE: Final = "snapstart.agentcube.volcano.sh/TemplateManaged"


class Reason(enum.StrEnum):
    """Why SnapStart manages a template or keeps away; also the reasons of the events."""

    APPLIED = "TemplateApplied"
    NO_PUBLIC_KEY = "PublicKeyMissing"
    FOREIGN_TEMPLATE = "TemplateNotOurs"
    CONTESTED = "TemplateContested"


_MESSAGES: Final = {
    Reason.APPLIED: "the SandboxTemplate {name} is kept as this CodeInterpreter says",
    Reason.NO_PUBLIC_KEY: (
        "no SandboxTemplate {name} yet: authMode picod needs the router's public key; "
        "start the router, or set authMode none"
    ),
    Reason.FOREIGN_TEMPLATE: (
        "another controller or a user made the SandboxTemplate {name}; SnapStart leaves it alone; "
        "delete it, or set its annotation {keeper}, to have SnapStart keep it"
    ),
    Reason.CONTESTED: (
        "somebody deleted or changed the SandboxTemplate {name} three times within 10 minutes; "
        "SnapStart leaves it alone for an hour, or until this CodeInterpreter changes; "
        "let one controller manage templates"
    ),
}


class TemplateCondition(Camel, frozen=True):
    """Our condition; True while the template is ours and as it should be."""

    type: str
    status: str
    reason: str
    message: str
    last_transition_time: datetime
    observed_generation: int = 0

    @classmethod
    def of(
        cls, reason: Reason, owner: CodeInterpreter, before: TemplateCondition | None, now: datetime
    ) -> Self:
        """The condition now; the time moves only with status or reason."""
        status = "True" if reason is Reason.APPLIED else "False"
        is_same = before is not None and (before.status, before.reason) == (status, reason)
        return cls(
            type=TYPE,
            status=status,
            reason=reason.value,
            message=_MESSAGES[reason].format(name=owner.metadata.name, keeper=_KEEPER),
            last_transition_time=(
                before.last_transition_time if before and is_same else now.replace(microsecond=0)
            ),
            observed_generation=owner.metadata.generation,
        )


def condition_of(owner: CodeInterpreter) -> TemplateCondition | None:
    """Our condition as it stands; None if there is none, or it is not as we write it."""
    for condition in owner.status.conditions or ():
        if condition.get("type") == TYPE:
            try:
                return msgspec.convert(condition, TemplateCondition)
            except msgspec.ValidationError:
                return None
    return None


def plan_conditions(owner: CodeInterpreter, ours: TemplateCondition) -> tuple[JsonObject, ...]:
    """The whole list with ours in it; the others stay as they were read, in their order."""
    others = [one for one in owner.status.conditions or () if one.get("type") != TYPE]
    return (*others, msgspec.to_builtins(ours))
