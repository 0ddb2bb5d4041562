"""Tell people what changed between two statuses."""

from __future__ import annotations

from controlplane.api.meta import Condition
from controlplane.api.types import ConditionType, SandboxSnapshotStatus, SnapshotPhase
from controlplane.snapshots.steps import EmitEvent

_NOTHING = SandboxSnapshotStatus()


def events_between(
    before: SandboxSnapshotStatus | None, after: SandboxSnapshotStatus
) -> list[EmitEvent]:
    """Events of a transition; none if nothing that people care about changed."""
    old = before or _NOTHING
    events = _phase_events(old, after, is_first=before is None)
    events += _problem_events(old, after)
    if old.phase is after.phase is SnapshotPhase.READY:
        events += _ready_events(old, after)
    events += _build_errors(old, after)
    if _became_true(old, after, ConditionType.STALE):
        message = _condition(after, ConditionType.STALE).message
        events.append(EmitEvent("SandboxSnapshotStale", message, is_warning=True))
    return events


def _phase_events(
    old: SandboxSnapshotStatus, new: SandboxSnapshotStatus, *, is_first: bool
) -> list[EmitEvent]:
    if old.phase is new.phase and not is_first:
        return []
    counts = f"{new.ready_node_count} of {new.target_node_count} nodes are ready"
    match new.phase:
        case SnapshotPhase.CREATING if old.phase is SnapshotPhase.READY:
            message = new.message or "sessions start cold until it is built again"
            return [EmitEvent("SandboxSnapshotRebuilding", message)]
        case SnapshotPhase.CREATING:
            return [
                EmitEvent("SandboxSnapshotCreating", f"building on {new.target_node_count} nodes")
            ]
        case SnapshotPhase.READY:
            return [EmitEvent("SandboxSnapshotReady", f"sessions restore from it; {counts}")]
        case SnapshotPhase.FAILED:
            return [EmitEvent("SandboxSnapshotFailed", new.message or counts, is_warning=True)]
    return []


def _problem_events(old: SandboxSnapshotStatus, new: SandboxSnapshotStatus) -> list[EmitEvent]:
    """The particular reason of a failure, once, also if one follows another."""
    if new.phase is not SnapshotPhase.FAILED:
        return []
    reason = _condition(new, ConditionType.READY).reason
    was = _condition(old, ConditionType.READY).reason
    if reason == "BuildsFailed" or (old.phase is new.phase and reason == was):
        return []
    return [EmitEvent(reason, new.message, is_warning=True)]


def _ready_events(old: SandboxSnapshotStatus, new: SandboxSnapshotStatus) -> list[EmitEvent]:
    events: list[EmitEvent] = []
    rebuilding = _condition(new, ConditionType.REBUILDING)
    counts = f"{new.ready_node_count} of {new.target_node_count} nodes are ready"
    if old.ready_at != new.ready_at:
        events.append(EmitEvent("SandboxSnapshotPromoted", f"the new version serves; {counts}"))
    elif _became_true(new, old, ConditionType.REBUILDING):
        message = "the replacement was given up; the present version serves on"
        events.append(EmitEvent("SandboxSnapshotRebuildFailed", message, is_warning=True))
    if _became_true(old, new, ConditionType.REBUILDING):
        message = f"a replacement is being built ({rebuilding.reason})"
        events.append(EmitEvent("SandboxSnapshotRebuilding", message))
    lost = (new.failed_node_count, new.unavailable_node_count)
    if lost != (old.failed_node_count, old.unavailable_node_count) and any(lost):
        events.append(
            EmitEvent(
                "SandboxSnapshotDegraded",
                f"{counts}, {lost[0]} failed, {lost[1]} unavailable: {new.message}",
                is_warning=True,
            )
        )
    return events


def _build_errors(old: SandboxSnapshotStatus, new: SandboxSnapshotStatus) -> list[EmitEvent]:
    if new.phase is not SnapshotPhase.CREATING or not new.message or new.message == old.message:
        return []
    return [EmitEvent("ArtifactBuildError", new.message, is_warning=True)]


def _became_true(
    old: SandboxSnapshotStatus, new: SandboxSnapshotStatus, kind: ConditionType
) -> bool:
    return _condition(old, kind).status != "True" and _condition(new, kind).status == "True"


def _condition(status: SandboxSnapshotStatus, kind: ConditionType) -> Condition:
    known = (one for one in status.conditions if one.type == kind.value)
    return next(known, Condition(type=kind.value, status="False"))
