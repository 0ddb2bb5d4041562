"""Decide what becomes of the SandboxTemplate of one CodeInterpreter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.kube.resource import CODE_INTERPRETERS
from controlplane.runtimes.condition import (
    Reason,
    TemplateCondition,
    condition_of,
    plan_conditions,
)
from controlplane.runtimes.pod_template import pod_template_for
from controlplane.runtimes.types import CodeInterpreter

FIELD_MANAGER: Final = "snapstart-code-interpreter"
UNDONE_WINDOW: Final = timedelta(minutes=10)
UNDONE_MAX: Final = 2
TRUCE: Final = timedelta(hours=1)
KEY_POLL: Final = timedelta(seconds=5)


@dataclass(frozen=True)
class Memory:
    """What one process remembers of one CodeInterpreter.

    wanted: the Pod template written last. accepted: what the API server made of it. undone: when
    somebody was found to have changed or deleted what was written.
    """

    wanted: JsonObject | None = None
    accepted: JsonObject | None = None
    undone: tuple[datetime, ...] = ()


@dataclass(frozen=True)
class Observed:
    """What is known.

    template: the SandboxTemplate of the same name, from the server itself: what lags behind our own
    write looks like somebody undoing it. api_version: to write it in. public_key: empty if unknown.
    """

    code_interpreter: CodeInterpreter
    template: JsonObject | None
    api_version: str
    public_key: str
    memory: Memory = Memory()


@dataclass(frozen=True)
class WriteTemplate:
    """Apply, then take out what others added. is_new: nothing may be there yet."""

    body: JsonObject
    is_new: bool


@dataclass(frozen=True)
class SetCondition:
    """Put our condition among those of the CodeInterpreter; conditions: the whole list."""

    conditions: tuple[JsonObject, ...]


@dataclass(frozen=True)
class Emit:
    """An event on the CodeInterpreter."""

    reason: Reason
    message: str
    is_warning: bool


Step = WriteTemplate | SetCondition | Emit


@dataclass(frozen=True)
class Plan:
    """Steps in order; look_again_at: at the latest, None = when something changes."""

    steps: tuple[Step, ...] = ()
    memory: Memory = Memory()
    look_again_at: datetime | None = None


def plan_template(observed: Observed, now: datetime) -> Plan:
    """What to do about a CodeInterpreter's template; nothing if it is as it should be."""
    owner, memory = observed.code_interpreter, observed.memory
    if owner.metadata.is_terminating:
        return Plan()
    if observed.template is not None and not is_ours(observed.template):
        return replace(_say(observed, Reason.FOREIGN_TEMPLATE, now), memory=Memory())
    if owner.needs_public_key and not observed.public_key:
        return replace(_say(observed, Reason.NO_PUBLIC_KEY, now), look_again_at=now + KEY_POLL)
    if observed.template is not None and observed.template["metadata"].get("deletionTimestamp"):
        return Plan(memory=memory)
    wanted = pod_template_for(owner, observed.public_key)
    if observed.template is not None and _is_current(observed, wanted):
        told = _say(observed, Reason.APPLIED, now)
        return replace(told, memory=_remember(memory, wanted, observed.template))
    return _plan_write(observed, wanted, now)


def is_ours(template: JsonObject) -> bool:
    """Whether this controller keeps the template; who takes the mark away takes the template."""
    annotations = template["metadata"].get("annotations") or {}
    return bool(annotations.get(names.TEMPLATE_KEEPER) == names.TEMPLATE_KEEPER_US)


def desired_template(
    owner: CodeInterpreter, pod_template: JsonObject, api_version: str
) -> JsonObject:
    """The whole SandboxTemplate as it is applied."""
    meta = owner.metadata
    reference = {
        "apiVersion": CODE_INTERPRETERS.api_version,
        "kind": CODE_INTERPRETERS.kind,
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {
        "name": meta.name,
        "namespace": meta.namespace,
        "labels": {names.MANAGED_BY: names.MANAGED_BY_CODE_INTERPRETER},
        "annotations": {names.TEMPLATE_KEEPER: names.TEMPLATE_KEEPER_US},
        "ownerReferences": [reference],
    }
    return {
        "apiVersion": api_version,
        "kind": "SandboxTemplate",
        "metadata": metadata,
        "spec": {"podTemplate": pod_template},
    }


def plan_removal(found: Any, wanted: Any) -> Any:
    """The JSON merge patch (RFC 7386) that turns `found` into `wanted`; empty if they are equal."""
    patch: JsonObject = {key: None for key in found if key not in wanted}
    for key, value in wanted.items():
        before = found.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := plan_removal(before, value):
                patch[key] = inner
        elif before != value:
            patch[key] = value
    return patch


def _plan_write(observed: Observed, wanted: JsonObject, now: datetime) -> Plan:
    truce_ends = _truce_end(observed)
    if truce_ends is not None and now < truce_ends:
        return Plan(memory=observed.memory, look_again_at=truce_ends)
    undone = _undone(observed, wanted, now)
    if len(undone) > UNDONE_MAX:
        told = _say(observed, Reason.CONTESTED, now)
        return replace(told, memory=Memory(), look_again_at=now + TRUCE)
    body = desired_template(observed.code_interpreter, wanted, observed.api_version)
    write = WriteTemplate(body, is_new=observed.template is None)
    told = _say(observed, Reason.APPLIED, now)
    memory = Memory(wanted=wanted, accepted=observed.memory.accepted, undone=undone)
    return Plan((write, *told.steps), memory)


def _undone(observed: Observed, wanted: JsonObject, now: datetime) -> tuple[datetime, ...]:
    """A write of something new is no repair: it undoes nobody's doing."""
    recent = tuple(at for at in observed.memory.undone if now - at < UNDONE_WINDOW)
    return (*recent, now) if observed.memory.wanted == wanted else recent


def _truce_end(observed: Observed) -> datetime | None:
    """Until when to keep away; a changed CodeInterpreter ends it at once."""
    condition = condition_of(observed.code_interpreter)
    if condition is None or condition.reason != Reason.CONTESTED:
        return None
    if condition.observed_generation != observed.code_interpreter.metadata.generation:
        return None
    return condition.last_transition_time + TRUCE


def _is_current(observed: Observed, wanted: JsonObject) -> bool:
    template, memory = observed.template or {}, observed.memory
    metadata = template["metadata"]
    found = template.get("spec", {}).get("podTemplate")
    is_equal = found == wanted or (memory.wanted == wanted and found == memory.accepted)
    labels = metadata.get("labels") or {}
    owners = metadata.get("ownerReferences") or ()
    uid = observed.code_interpreter.metadata.uid
    return (
        is_equal
        and labels.get(names.MANAGED_BY) == names.MANAGED_BY_CODE_INTERPRETER
        and any(owner.get("uid") == uid and owner.get("controller") for owner in owners)
    )


def _remember(memory: Memory, wanted: JsonObject, template: JsonObject) -> Memory:
    return Memory(wanted=wanted, accepted=template["spec"]["podTemplate"], undone=memory.undone)


def _say(observed: Observed, reason: Reason, now: datetime) -> Plan:
    """Publish the state, if that is news; an event when the reason is another one."""
    owner = observed.code_interpreter
    before = condition_of(owner)
    condition = TemplateCondition.of(reason, owner, before, now)
    if condition == before:
        return Plan(memory=observed.memory)
    steps: list[Step] = [SetCondition(plan_conditions(owner, condition))]
    if before is None or before.reason != reason:
        steps.append(Emit(reason, condition.message, is_warning=reason is not Reason.APPLIED))
    return Plan(tuple(steps), observed.memory)
