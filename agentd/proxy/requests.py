"""Make one request of what a caller sent, or refuse it.

What was sent goes no further: the values that passed do, in messages of our own. So a member that
comes twice, or one that is unknown here, cannot mean one thing here and another to the sandboxer.
"""

from __future__ import annotations

import enum
import json
from typing import Annotated, Any, ClassVar, Final, NoReturn

import msgspec

from agentd.kuasar.names import require_id, require_key
from agentd.proxy.refusals import RefusedError
from agentd.units import MIB

BODY_MAX_BYTES: Final = 4 * MIB
WARM_FORK: Final = "warm_fork"
_ENVIRONMENT: Final = "environment"
_SHOWN: Final = 200
_SEPARATORS_MAX: Final = 64

# \Z, as $ also matches before a line's end. No "/": names are put together with it.
_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_Namespace = Annotated[str, msgspec.Meta(pattern=rf"\A{_LABEL}\Z", max_length=63)]
_Name = Annotated[str, msgspec.Meta(pattern=rf"\A{_LABEL}(\.{_LABEL})*\Z", max_length=253)]
_NameOrNone = Annotated[str, msgspec.Meta(pattern=rf"\A({_LABEL}(\.{_LABEL})*)?\Z", max_length=253)]
_Uid = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9-]+\Z", max_length=64)]


class Action(enum.StrEnum):
    """What may be asked for; everything else a sandboxer knows stays out of reach."""

    CREATE = "create-template"
    DELETE = "delete-template"
    LIST = "list-templates"


# The first form's drafts say some of them the other way round.
ACTIONS: Final = {action.value: action for action in Action} | {
    "template-create": Action.CREATE,
    "template-list": Action.LIST,
}


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Owner(_Message, frozen=True):
    """On whose behalf. snap_start_name, node_name: empty where the control plane does not say."""

    namespace: _Namespace
    runtime_name: _Name
    snap_start_uid: _Uid
    snap_start_name: _NameOrNone = ""
    node_name: _NameOrNone = ""


class CreateTemplate(_Message, frozen=True):
    """Snapshot a sandbox. sandbox_id: the container runtime's, not the name of an object."""

    action: ClassVar[Action] = Action.CREATE
    sandbox_id: str
    key: str
    owner: Owner
    snapshot_type: str = WARM_FORK


class DeleteTemplate(_Message, frozen=True):
    """Remove what `list-templates` tells under this id."""

    action: ClassVar[Action] = Action.DELETE
    template_id: str


class ListTemplates(_Message, frozen=True):
    """Tell of every template that was made through here."""

    action: ClassVar[Action] = Action.LIST


Request = CreateTemplate | DeleteTemplate | ListTemplates
_KINDS: Final[dict[Action, type[Request]]] = {
    kind.action: kind for kind in (CreateTemplate, DeleteTemplate, ListTemplates)
}


def parse_request(body: bytes) -> Request:
    """The request in a body. Raises: RefusedError 400, 403; SnapStartError NAME_INVALID."""
    members = _object(body)
    action = _action(members.pop("action", None))
    try:
        request = msgspec.convert(members, _KINDS[action])
    except (msgspec.ValidationError, UnicodeEncodeError) as exc:
        raise _bad(f"{action}: {_shown(exc)}") from exc
    _check(request)
    return request


def _object(body: bytes) -> dict[str, Any]:
    # No name or value of a request has one. A body of 4 MiB would keep the event loop for long.
    if body.count(b",") + body.count(b":") > _SEPARATORS_MAX:
        raise _bad("the body has more members than any request")
    try:
        found = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number
        )
    except (ValueError, RecursionError) as exc:
        raise _bad(f"the body is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise _bad("the body is JSON, but no object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _bad("an object of the body has a member twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is none of its numbers")


def _action(text: object) -> Action:
    if not isinstance(text, str):
        raise _bad("there is no `action`, or it is no string")
    if text not in ACTIONS:
        known = ", ".join(Action)
        raise RefusedError(403, "action_not_allowed", f"only {known} may be asked for here")
    return ACTIONS[text]


def _check(request: Request) -> None:
    """What types cannot say. Raises: as `parse_request`."""
    match request:
        case CreateTemplate():
            require_id("sandbox_id", request.sandbox_id)
            require_key(request.key)
            _check_kind(request.snapshot_type)
        case DeleteTemplate():
            require_id("template_id", request.template_id)


def _check_kind(snapshot_type: str) -> None:
    if snapshot_type == _ENVIRONMENT:
        raise _bad(
            "snapshot_type `environment`: a sandboxer makes these of its own settings, none makes "
            "one of a sandbox"
        )
    if snapshot_type != WARM_FORK:
        raise _bad(f"snapshot_type: only `{WARM_FORK}` can be made here")


def _shown(exc: Exception) -> str:
    """It may name a member of any length and any characters."""
    return str(exc)[:_SHOWN].encode("ascii", "backslashreplace").decode()


def _bad(why: str) -> RefusedError:
    return RefusedError(400, "bad_request", why)
