"""Decide how an admitted Sandbox is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.sessions.decision import Decision, StartReason
from controlplane.sessions.review import PatchStep
from controlplane.sessions.session import is_restore_annotation, is_selector

_POD_METADATA = ("spec", "podTemplate", "metadata")
_OBJECT_METADATA = ("metadata",)


def plan_session_patch(body: JsonObject, decision: Decision) -> tuple[PatchStep, ...]:
    """Put the decision in, and take out what anybody else said about restoring.

    Args: body: the Sandbox as sent. The result holds nothing that changes nothing.
    """
    reason = None if decision.reason is StartReason.NO_SNAPSHOT else decision.reason.value
    told = {names.COLD_START_REASON: reason} if reason and not decision.key else {}
    return (
        *_plan_annotations(body, _POD_METADATA, decision.annotations, is_restore_annotation),
        *_plan_annotations(body, _OBJECT_METADATA, told, names.COLD_START_REASON.__eq__),
    )


def plan_build_patch(body: JsonObject, *, is_trusted: bool) -> tuple[PatchStep, ...]:
    """A build never restores; only the snapshot controller may mark one for a provider."""
    is_foreign = is_selector if is_trusted else is_restore_annotation
    return _plan_annotations(body, _POD_METADATA, {}, is_foreign)


def plan_keep_patch(body: JsonObject, old: JsonObject) -> tuple[PatchStep, ...]:
    """What the object said about restoring before this update is what it says after it."""
    annotations, _ = _annotations(old, _POD_METADATA)
    kept = {key: value for key, value in annotations.items() if is_restore_annotation(key)}
    return _plan_annotations(body, _POD_METADATA, kept, is_restore_annotation)


def pointer(path: Iterable[str]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)


def _plan_annotations(
    body: JsonObject,
    at: tuple[str, ...],
    wanted: dict[str, str],
    is_ours: Callable[[str], bool],
) -> tuple[PatchStep, ...]:
    found, missing = _annotations(body, at)
    removed = (key for key in found if key not in wanted and is_ours(key))
    steps = [PatchStep(op="remove", path=pointer((*at, "annotations", key))) for key in removed]
    added = {key: value for key, value in wanted.items() if found.get(key) != value}
    if added and missing is not None:
        return (*steps, _grow(at, missing, added))
    added_steps = (
        PatchStep(op="add", path=pointer((*at, "annotations", key)), value=value)
        for key, value in added.items()
    )
    return (*steps, *added_steps)


def _annotations(body: JsonObject, at: tuple[str, ...]) -> tuple[JsonObject, int | None]:
    """The annotations; else at which depth of the path the first map is missing."""
    holder: JsonObject = body
    for depth, part in enumerate((*at, "annotations")):
        inner = holder.get(part)
        if not isinstance(inner, dict):
            return {}, depth
        holder = inner
    return holder, None


def _grow(at: tuple[str, ...], missing: int, added: dict[str, str]) -> PatchStep:
    """One step that makes every missing map; "add" replaces a null."""
    full = (*at, "annotations")
    value: object = added
    for part in reversed(full[missing + 1 :]):
        value = {part: value}
    return PatchStep(op="add", path=pointer(full[: missing + 1]), value=value)
