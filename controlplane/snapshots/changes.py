"""Count what changed between two manifests, tell what of it nobody may overlook."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.api.builds import CONTAMINATED
from controlplane.api.manifest import Artifact, ArtifactSet, Manifest, SetReason
from controlplane.api.types import ArtifactPhase, SnapshotMode
from controlplane.snapshots.draft import artifacts_of
from controlplane.snapshots.messages import join_messages
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.steps import Count, EmitEvent, Metric

_CREATING, _READY, _FAILED = ArtifactPhase.CREATING, ArtifactPhase.READY, ArtifactPhase.FAILED


def count_changes(before: Manifest | None, after: Manifest, mode: SnapshotMode) -> list[Count]:
    """What metrics are to learn of a change."""
    old, new = _sets(before), _sets(after)
    counts: list[Count] = []
    for key, one in new.items():
        if key not in old:
            counts += _count_begin(one)
        was = {artifact.node_name: artifact for artifact in artifacts_of(old.get(key))}
        if artifacts_of(one) is not artifacts_of(old.get(key)):
            counts += _count_artifacts(was, one, mode)
    counts += _count_retired(old, new, after)
    return counts


def warn_of_changes(before: Manifest | None, after: Manifest, policy: Policy) -> list[EmitEvent]:
    """An event for builds that were refused because their guests held user state."""
    found = {_attempt(one): one for one in _artifacts(after) if _was_contaminated(one)}
    if not found:
        return []
    for one in _artifacts(before):
        if one.phase is _FAILED:
            found.pop(_attempt(one), None)
    if not found:
        return []
    return [EmitEvent(CONTAMINATED, join_messages(found.values(), policy), is_warning=True)]


def _was_contaminated(one: Artifact) -> bool:
    return one.phase is _FAILED and one.message.startswith(CONTAMINATED)


def _artifacts(manifest: Manifest | None) -> Iterator[Artifact]:
    for one in _sets(manifest).values():
        yield from artifacts_of(one)


def _attempt(one: Artifact) -> tuple[str, str, int]:
    return one.snapshot_key, one.node_name, one.attempt


def _sets(manifest: Manifest | None) -> dict[str, ArtifactSet]:
    return (manifest.artifact_sets or {}) if manifest is not None else {}


def _count_begin(one: ArtifactSet) -> list[Count]:
    if one.reason is None or one.reason is SetReason.INITIAL:
        return []
    return [Count(Metric.REBUILDS, (one.reason.value,))]


def _count_artifacts(was: dict[str, Artifact], one: ArtifactSet, mode: SnapshotMode) -> list[Count]:
    counts: list[Count] = []
    for artifact in artifacts_of(one):
        before = was.pop(artifact.node_name, None)
        if before is None or before.phase is not artifact.phase:
            counts += _count_transition(before, artifact, mode)
    if was:
        counts.append(Count(Metric.RECORDS_REMOVED, ("node_removed",), len(was)))
    return counts


def _count_transition(before: Artifact | None, after: Artifact, mode: SnapshotMode) -> list[Count]:
    if before is None or before.phase is not _CREATING or after.phase not in (_READY, _FAILED):
        return []
    counts = [Count(Metric.BUILD_TASKS, (after.phase.value,), about=after)]
    if after.phase is _READY and after.created_at and after.started_at:
        took_s = max((after.created_at - after.started_at).total_seconds(), 0.0)
        counts.append(Count(Metric.BUILD_SECONDS, (after.provider_name, mode.value), took_s))
    return counts


def _count_retired(
    old: dict[str, ArtifactSet], new: dict[str, ArtifactSet], after: Manifest
) -> list[Count]:
    reasons = {one.snapshot_key: one.reason for one in after.retired_sets or ()}
    counts: list[Count] = []
    for key, one in old.items():
        artifacts = artifacts_of(one)
        if key in new or not artifacts:
            continue
        reason = reasons.get(key) or "unknown"
        counts.append(Count(Metric.RECORDS_REMOVED, (reason,), len(artifacts)))
    return counts
