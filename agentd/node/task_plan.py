"""Decide what this node does about one SandboxSnapshotTask."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from agentd.node.task_target import check_target
from agentd.node.task_types import (
    Create,
    Decision,
    Delete,
    Ignore,
    Observed,
    Report,
    Wait,
)
from agentd.providers.driver import CreateRequest, LocalArtifact, SnapshotOwner
from controlplane.api import names
from controlplane.api.types import (
    ArtifactPhase,
    SandboxSnapshotTaskSpec,
    SnapshotMode,
    TaskOperation,
)

DEADLINE: Final = timedelta(minutes=15)
_FIRST_DELAY_S: Final = 10.0
_MAX_DELAY_S: Final = 300.0


def plan_task(seen: Observed, now: datetime) -> Decision:
    """What to do next. now: aware, in UTC."""
    task, spec = seen.task, seen.task.spec
    if spec.target_node_name != seen.node_name:
        return Ignore("it is another node's")
    if task.metadata.is_terminating:
        return Ignore("it is being deleted")
    phase = task.status.phase if task.status else None
    if phase is not None and phase.is_terminal_for_task:
        return Ignore(f"it is {phase.value} already")
    if problem := _why_unfit(spec, seen.capabilities):
        return Report(ArtifactPhase.FAILED, problem, "DriverCreateFailed")
    decision = _PLANS[spec.operation](seen, now)
    return _within_time(decision, seen, now)


def retry_delay_s(attempts: int) -> float:
    """Seconds to wait after so many attempts, at least one."""
    return min(_FIRST_DELAY_S * 2.0 ** (max(attempts, 1) - 1), _MAX_DELAY_S)


def _why_unfit(
    spec: SandboxSnapshotTaskSpec, capabilities: Mapping[str, frozenset[SnapshotMode]]
) -> str:
    required = {
        "snapshotRef.name": spec.snapshot_ref.name,
        "snapshotUID": spec.snapshot_uid,
        "providerName": spec.provider_name,
        "snapshotKey": spec.snapshot_key,
        "snapshotHash": spec.snapshot_hash,
    }
    if spec.operation is TaskOperation.CREATE:
        required["targetSandboxRef.name"] = spec.target_sandbox_ref.name
    missing = [name for name, value in required.items() if not value]
    if missing:
        return f"the task lacks {', '.join(missing)}"
    reference = (spec.snapshot_ref.api_group, spec.snapshot_ref.kind)
    if reference != (names.GROUP, "SandboxSnapshot"):
        return f"snapshotRef names a {reference[1]!r} of {reference[0]!r}"
    if spec.provider_name not in capabilities:
        known = ", ".join(sorted(capabilities)) or "none"
        return f"provider {spec.provider_name!r} is not configured on this node (here: {known})"
    if spec.snapshot_mode is not SnapshotMode.FORK:
        return f"mode {spec.snapshot_mode.value} is not supported by {spec.provider_name!r}"
    return ""


def _within_time(decision: Decision, seen: Observed, now: datetime) -> Decision:
    """Give up at the deadline; an inspection that tells nothing is left to the controller."""
    born = seen.task.metadata.creation_timestamp or now
    if now - born < DEADLINE or isinstance(decision, Ignore | Report):
        return decision
    if seen.task.spec.operation is TaskOperation.INSPECT:
        return decision
    last = decision.message if isinstance(decision, Wait) else "the last attempt failed"
    minutes = int(DEADLINE.total_seconds() // 60)
    return Report(
        ArtifactPhase.FAILED, f"not done within {minutes} minutes: {last}", "DriverCreateFailed"
    )


def _plan_create(seen: Observed, now: datetime) -> Decision:
    spec = seen.task.spec
    owner = owner_of(seen)
    if (gone := _why_unowned(seen)) is not None:
        return gone
    if seen.artifact is not None and is_wanted(seen.artifact, spec, owner):
        return Report(ArtifactPhase.READY, event="SnapshotCreated")
    if waiting := _why_not_able(seen, now):
        return waiting
    if (other := check_target(seen, now)) is not None:
        return other
    assert seen.pod is not None
    return Create(
        CreateRequest(
            pod_uid=seen.pod.metadata.uid,
            pod_namespace=seen.pod.metadata.namespace,
            pod_name=seen.pod.metadata.name,
            key=spec.snapshot_key,
            snapshot_hash=spec.snapshot_hash,
            mode=spec.snapshot_mode,
            owner=owner,
        )
    )


def _plan_delete(seen: Observed, now: datetime) -> Decision:
    found, spec = seen.artifact, seen.task.spec
    if seen.artifact_problem:
        return Wait(seen.artifact_problem)
    if found is None:
        return Report(ArtifactPhase.READY)
    if found.owner is not None and not _is_of_snapshot(found.owner, spec, seen):
        return Report(ArtifactPhase.FAILED, f"artifact {found.key!r} belongs to another snapshot")
    if found.owner is None and found.is_ready:
        return Report(ArtifactPhase.FAILED, f"no cluster ordered artifact {found.key!r}")
    return _back_off(seen, now) or Delete(spec.snapshot_key)


def _plan_inspect(seen: Observed, _now: datetime) -> Decision:
    spec, found = seen.task.spec, seen.artifact
    if seen.artifact_problem:
        return Wait(seen.artifact_problem)
    if SnapshotMode.FORK not in seen.capabilities[spec.provider_name]:
        return Wait(f"provider {spec.provider_name!r} cannot restore here now")
    if found is None:
        return Report(ArtifactPhase.FAILED, "the artifact is missing")
    if not is_wanted(found, spec, owner_of(seen)):
        return Report(ArtifactPhase.FAILED, _why_unwanted(found, spec))
    return Report(ArtifactPhase.READY)


_PLANS: Final = {
    TaskOperation.CREATE: _plan_create,
    TaskOperation.DELETE: _plan_delete,
    TaskOperation.INSPECT: _plan_inspect,
}


def owner_of(seen: Observed) -> SnapshotOwner:
    """On whose behalf the task is."""
    spec = seen.task.spec
    return SnapshotOwner(
        seen.cluster, seen.task.metadata.namespace, spec.snapshot_ref.name, spec.snapshot_uid
    )


def is_wanted(found: LocalArtifact, spec: SandboxSnapshotTaskSpec, owner: SnapshotOwner) -> bool:
    """An artifact is what the task is about, and can be restored."""
    is_same = found.owner == owner and found.snapshot_hash == spec.snapshot_hash
    return is_same and found.is_ready and found.mode is spec.snapshot_mode


def _why_unwanted(found: LocalArtifact, spec: SandboxSnapshotTaskSpec) -> str:
    if not found.is_ready:
        return "the artifact is damaged, or of another monitor"
    if found.snapshot_hash != spec.snapshot_hash:
        return f"the artifact has hash {found.snapshot_hash!r}"
    return f"the artifact belongs to {found.owner!r}"


def _is_of_snapshot(owner: SnapshotOwner, spec: SandboxSnapshotTaskSpec, seen: Observed) -> bool:
    return owner.cluster == seen.cluster and owner.snapshot_uid == spec.snapshot_uid


def _why_unowned(seen: Observed) -> Decision | None:
    """A task without its snapshot is dropped, not failed: nobody would read the answer."""
    snapshot, spec = seen.snapshot, seen.task.spec
    if snapshot is None:
        return Ignore("its snapshot is gone")
    if snapshot.metadata.uid != spec.snapshot_uid:
        return Ignore("its snapshot is another one of that name")
    if snapshot.metadata.is_terminating:
        return Ignore("its snapshot is being deleted")
    return None


def _why_not_able(seen: Observed, now: datetime) -> Wait | None:
    spec = seen.task.spec
    if seen.artifact_problem:
        return Wait(seen.artifact_problem, event="DriverCreateFailed")
    if spec.snapshot_mode not in seen.capabilities[spec.provider_name]:
        message = f"provider {spec.provider_name!r} cannot {spec.snapshot_mode.value} here now"
        return Wait(message, event="SnapshotModeNotSupported")
    return _back_off(seen, now)


def _back_off(seen: Observed, now: datetime) -> Wait | None:
    """After a failed attempt the task's own status says when the next one is due."""
    status = seen.task.status
    if status is None or not status.attempts or status.observed_at is None:
        return None
    due = status.observed_at + timedelta(seconds=retry_delay_s(status.attempts))
    left_s = (due - now).total_seconds()
    return Wait(status.message, left_s) if left_s > 0 else None
