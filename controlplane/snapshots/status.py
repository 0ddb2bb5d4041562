"""Decide what a SandboxSnapshot's status says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from controlplane.api.builds import PROTOCOL_NOT_SUPPORTED
from controlplane.api.manifest import Artifact, ArtifactSet, Manifest
from controlplane.api.meta import Condition
from controlplane.api.types import (
    ArtifactPhase,
    ConditionType,
    SandboxSnapshot,
    SandboxSnapshotStatus,
    SnapshotPhase,
)
from controlplane.snapshots.artifacts import is_exhausted
from controlplane.snapshots.draft import artifacts_of
from controlplane.snapshots.messages import cap_bytes, join_messages
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.source import Problem, Source


@dataclass(frozen=True)
class Verdict:
    """A phase with the reason of the Ready condition."""

    phase: SnapshotPhase
    reason: str
    message: str = ""


def plan_status(
    snapshot: SandboxSnapshot,
    manifest: Manifest,
    source: Source | Problem,
    policy: Policy,
    now: datetime,
) -> SandboxSnapshotStatus:
    """The status of a manifest: a function of it, so that writing it again changes nothing."""
    counted = (
        () if isinstance(source, Problem) else artifacts_of(manifest.active or manifest.pending)
    )
    phases = Counter(artifact.phase for artifact in counted)
    verdict = _judge(manifest, source, phases, policy)
    active = manifest.active
    return SandboxSnapshotStatus(
        phase=verdict.phase,
        target_node_count=len(counted),
        creating_node_count=phases[ArtifactPhase.CREATING],
        ready_node_count=phases[ArtifactPhase.READY],
        failed_node_count=phases[ArtifactPhase.FAILED],
        unavailable_node_count=phases[ArtifactPhase.UNAVAILABLE],
        ready_at=active.promoted_at if active is not None else None,
        conditions=_conditions(snapshot, manifest, source, verdict, counted, policy, now),
        message=verdict.message,
    )


def problem_status(
    snapshot: SandboxSnapshot, problem: Problem, policy: Policy, now: datetime
) -> SandboxSnapshotStatus:
    """The status while there is no manifest to go by."""
    return plan_status(snapshot, Manifest(), problem, policy, now)


def _judge(
    manifest: Manifest,
    source: Source | Problem,
    phases: Counter[ArtifactPhase],
    policy: Policy,
) -> Verdict:
    if isinstance(source, Problem):
        message = cap_bytes(source.message, policy.message_bytes)
        return Verdict(SnapshotPhase.FAILED, source.reason, message)
    shown = artifacts_of(manifest.active or manifest.pending)
    message = join_messages(shown, policy)
    if manifest.active is not None and phases[ArtifactPhase.READY]:
        return Verdict(SnapshotPhase.READY, "Restorable", message)
    if phases[ArtifactPhase.CREATING]:
        return Verdict(SnapshotPhase.CREATING, "Building", message)
    if not source.targets.nodes:
        message = cap_bytes(f"no node can be used: {source.targets}", policy.message_bytes)
        return Verdict(SnapshotPhase.FAILED, "NoTargetNodes", message)
    if not _is_hope(manifest, policy):
        return Verdict(SnapshotPhase.FAILED, "BuildsFailed", message)
    return Verdict(SnapshotPhase.CREATING, "Building", message)


def _is_hope(manifest: Manifest, policy: Policy) -> bool:
    """Some node of some set has not failed for good."""
    both = (*artifacts_of(manifest.active), *artifacts_of(manifest.pending))
    return not both or any(not is_exhausted(artifact, policy) for artifact in both)


def _conditions(
    snapshot: SandboxSnapshot,
    manifest: Manifest,
    source: Source | Problem,
    verdict: Verdict,
    counted: tuple[Artifact, ...],
    policy: Policy,
    now: datetime,
) -> tuple[Condition, ...]:
    drafts = (
        _ready(verdict),
        _degraded(verdict, counted),
        _rebuilding(manifest, policy),
        _stale(manifest.active, source),
        _protocol(manifest, policy),
    )
    known = {one.type: one for one in (snapshot.status.conditions if snapshot.status else ())}
    generation = snapshot.metadata.generation
    return tuple(_stamped(draft, known.get(draft.type), generation, now) for draft in drafts)


def _stamped(
    draft: Condition, known: Condition | None, generation: int, now: datetime
) -> Condition:
    """The time is that of the last change of `status`, not of a reason or a message."""
    is_same = known is not None and known.status == draft.status
    since = known.last_transition_time if known is not None and is_same else None
    return Condition(
        type=draft.type,
        status=draft.status,
        reason=draft.reason,
        message=draft.message,
        observed_generation=generation,
        last_transition_time=since or now,
    )


def _condition(kind: ConditionType, is_true: bool, reason: str, message: str = "") -> Condition:
    return Condition(
        type=kind.value, status="True" if is_true else "False", reason=reason, message=message
    )


def _ready(verdict: Verdict) -> Condition:
    is_ready = verdict.phase is SnapshotPhase.READY
    return _condition(ConditionType.READY, is_ready, verdict.reason, verdict.message)


def _degraded(verdict: Verdict, counted: tuple[Artifact, ...]) -> Condition:
    ready = sum(artifact.phase is ArtifactPhase.READY for artifact in counted)
    if verdict.phase is not SnapshotPhase.READY:
        return _condition(ConditionType.DEGRADED, False, "NotReady")
    if ready == len(counted):
        return _condition(ConditionType.DEGRADED, False, "AllNodesReady")
    message = f"{ready} of {len(counted)} nodes are ready"
    return _condition(ConditionType.DEGRADED, True, "PartialNodeFailure", message)


def _rebuilding(manifest: Manifest, policy: Policy) -> Condition:
    pending = manifest.pending
    if manifest.active is None or pending is None:
        return _condition(ConditionType.REBUILDING, False, "NoReplacement")
    why = "".join(part.title() for part in (pending.reason or "rebuild").split("_"))
    message = join_messages(artifacts_of(pending), policy)
    return _condition(ConditionType.REBUILDING, True, why, message)


def _stale(active: ArtifactSet | None, source: Source | Problem) -> Condition:
    if isinstance(source, Problem):
        return _condition(ConditionType.STALE, False, "SourceUnknown")
    if active is None or active.snapshot_hash == source.snapshot_hash:
        return _condition(ConditionType.STALE, False, "SourceUnchanged")
    message = "the source changed; sessions made from it as it is now start cold"
    return _condition(ConditionType.STALE, True, "SourceChanged", message)


def _protocol(manifest: Manifest, policy: Policy) -> Condition:
    both = (*artifacts_of(manifest.active), *artifacts_of(manifest.pending))
    lacking = [one for one in both if one.message.startswith(PROTOCOL_NOT_SUPPORTED)]
    if not lacking:
        return _condition(ConditionType.PROTOCOL_NOT_SUPPORTED, False, "NotReported")
    message = join_messages(lacking, policy)
    return _condition(ConditionType.PROTOCOL_NOT_SUPPORTED, True, "GuestLacksProtocol", message)
