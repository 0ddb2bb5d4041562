"""Decide which set serves, which one is built, which ones go."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from msgspec.structs import replace

from controlplane.api import names
from controlplane.api.manifest import ArtifactSet, Manifest, RetiredSet, SetReason, SetReference
from controlplane.api.meta import OwnerReference
from controlplane.api.types import ArtifactPhase, SandboxSnapshot
from controlplane.snapshots.artifacts import is_exhausted, is_terminal
from controlplane.snapshots.draft import Draft, artifacts_of
from controlplane.snapshots.keys import snapshot_key
from controlplane.snapshots.source import Source
from controlplane.snapshots.steps import EmitEvent

PROMOTED: Final = "promoted"
GIVEN_UP: Final = "failed"
UNREFERENCED: Final = "unreferenced"
SOURCE_GONE: Final = "source_gone"
DELETED: Final = "deleted"


def first_manifest(snapshot: SandboxSnapshot, now: datetime) -> Manifest:
    """The record of a snapshot that has none.

    A snapshot that was built before lost its record with the store. Its keys must not come back,
    so its numbers start from the minute of the epoch.
    """
    status = snapshot.status
    is_known = status is not None and status.ready_at is not None
    seq = int(now.timestamp() // 60) if is_known else 0
    return Manifest(owner_ref=owner_of(snapshot), rebuild_seq=seq)


def owner_of(snapshot: SandboxSnapshot) -> OwnerReference:
    """The snapshot as the owner of its manifest."""
    return OwnerReference(
        api_version=names.API_VERSION,
        kind="SandboxSnapshot",
        name=snapshot.metadata.name,
        uid=snapshot.metadata.uid,
        controller=True,
    )


def repair(draft: Draft) -> None:
    """References to absent sets are cleared; sets that nobody refers to are retired."""
    manifest = draft.manifest
    if manifest.owner_ref in (None, OwnerReference()):
        manifest = replace(manifest, owner_ref=owner_of(draft.seen.snapshot))
    dangling = []
    if _names_a_set(manifest.active_set_ref) and manifest.active is None:
        manifest = replace(manifest, active_set_ref=None)
        dangling.append("active")
    if _names_a_set(manifest.pending_set_ref) and manifest.pending is None:
        manifest = replace(manifest, pending_set_ref=None)
        dangling.append("pending")
    draft.manifest = manifest
    if dangling:
        message = f"the manifest's {' and '.join(dangling)} reference named no set; cleared"
        draft.facts.append(EmitEvent("SandboxSnapshotRepaired", message, is_warning=True))
    _retire_unreferenced(draft)
    _repair_active(draft)


def retire_all(draft: Draft, reason: str) -> None:
    """Nothing serves, nothing is built."""
    for one in draft.serving_sets:
        _retire(draft, one, reason)


def clear_stale(draft: Draft, source: Source) -> None:
    """What was built from something else leaves before anything is built."""
    pending, active = draft.manifest.pending, draft.manifest.active
    if pending is not None and pending.snapshot_hash != source.snapshot_hash:
        _retire(draft, pending, SetReason.SOURCE_CHANGE)
    if active is None or active.snapshot_hash == source.snapshot_hash:
        return
    policy = draft.seen.snapshot.spec.fork_policy
    if policy is None or policy.is_rebuilt_on_source_change:
        _retire(draft, active, SetReason.SOURCE_CHANGE)


def ensure_set(draft: Draft, source: Source) -> None:
    """Begin a set if there is a reason and a node."""
    reason = _choose_reason(draft, source)
    if reason is None or not source.targets.nodes:
        return
    meta, seq = draft.seen.snapshot.metadata, draft.manifest.rebuild_seq + 1
    key = snapshot_key(
        meta.namespace,
        meta.name,
        meta.uid,
        draft.seen.snapshot.spec.snapshot_mode,
        meta.generation,
        seq,
    )
    draft.put_set(
        ArtifactSet(
            snapshot_key=key,
            snapshot_hash=source.snapshot_hash,
            started_at=draft.now,
            reason=reason,
        )
    )
    draft.manifest = replace(
        draft.manifest,
        pending_set_ref=SetReference(snapshot_key=key),
        rebuild_seq=seq,
        next_rebuild_at=None,
    )


def promote(draft: Draft) -> None:
    """Let the pending set take over, if it may."""
    active, pending = draft.manifest.active, draft.manifest.pending
    if pending is None or not _may_take_over(draft, active, pending):
        return
    draft.put_set(replace(pending, promoted_at=draft.now))
    draft.manifest = replace(
        draft.manifest,
        active_set_ref=SetReference(snapshot_key=pending.snapshot_key),
        pending_set_ref=None,
        next_rebuild_at=None,
    )
    draft.is_forced_done = is_forced(draft.seen.snapshot)
    if active is not None:
        _retire(draft, active, PROMOTED)


def give_up(draft: Draft) -> None:
    """A replacement that comes to nothing leaves; another one is tried later."""
    active, pending = draft.manifest.active, draft.manifest.pending
    if active is None or pending is None or ready_count(pending):
        return
    policy, artifacts = draft.seen.policy, artifacts_of(pending)
    is_over = bool(artifacts) and all(is_exhausted(one, policy) for one in artifacts)
    if is_over or draft.is_due(pending.started_at or draft.now, policy.pending_s):
        _retire(draft, pending, GIVEN_UP)
        retry_at = draft.now + policy.retry_delay(policy.attempts)
        draft.manifest = replace(draft.manifest, next_rebuild_at=retry_at)
        draft.wake_at(retry_at)


def is_forced(snapshot: SandboxSnapshot) -> bool:
    """Somebody wants it built anew."""
    return snapshot.metadata.annotation(names.FORCE_REBUILD) == "true"


def ready_count(one: ArtifactSet | None) -> int:
    """How many of a set's artifacts are Ready."""
    return sum(artifact.phase is ArtifactPhase.READY for artifact in artifacts_of(one))


def _may_take_over(draft: Draft, active: ArtifactSet | None, pending: ArtifactSet) -> bool:
    ready = ready_count(pending)
    if not ready:
        return False
    if ready >= ready_count(active):
        return True
    policy = draft.seen.policy
    if all(is_terminal(one, policy) for one in artifacts_of(pending)):
        return True
    return draft.is_due(pending.first_ready_at or draft.now, policy.promotion_s)


def _choose_reason(draft: Draft, source: Source) -> SetReason | None:
    active, pending = draft.manifest.active, draft.manifest.pending
    is_wanted = is_forced(draft.seen.snapshot)
    if pending is not None:
        return _choose_restart(draft, pending) if active is None and is_wanted else None
    if active is None:
        if is_wanted:
            return SetReason.FORCE
        known = draft.manifest.retired_sets
        return SetReason.SOURCE_CHANGE if known else SetReason.INITIAL
    if not _is_time(draft):
        return None
    if is_wanted:
        return SetReason.FORCE
    if active.snapshot_hash != source.snapshot_hash and not ready_count(active):
        return SetReason.INVALIDATED
    after_s = source.rebuild_after_s
    if after_s is not None and draft.is_due(active.promoted_at or draft.now, after_s):
        return SetReason.REBUILD_AFTER
    return None


def _choose_restart(draft: Draft, pending: ArtifactSet) -> SetReason | None:
    """Force opens a spent budget once: by a new set, whose reason remembers it."""
    artifacts, policy = artifacts_of(pending), draft.seen.policy
    is_spent = bool(artifacts) and all(is_exhausted(one, policy) for one in artifacts)
    if not is_spent or pending.reason is SetReason.FORCE:
        return None
    _retire(draft, pending, GIVEN_UP)
    return SetReason.FORCE


def _is_time(draft: Draft) -> bool:
    when = draft.manifest.next_rebuild_at
    if when is None or when <= draft.now:
        return True
    draft.wake_at(when)
    return False


def _retire(draft: Draft, one: ArtifactSet, reason: str) -> None:
    """Out of the references, onto the list of what is to be deleted: one change of the manifest."""
    manifest, key = draft.manifest, one.snapshot_key
    sets = {name: held for name, held in (manifest.artifact_sets or {}).items() if name != key}
    retired = _retired_set(draft, one, reason)
    draft.manifest = replace(
        manifest,
        artifact_sets=sets or None,
        active_set_ref=_without(manifest.active_set_ref, key),
        pending_set_ref=_without(manifest.pending_set_ref, key),
        retired_sets=(*(manifest.retired_sets or ()), *retired) or None,
    )


def _retired_set(draft: Draft, one: ArtifactSet, reason: str) -> tuple[RetiredSet, ...]:
    """Also nodes whose build failed or goes on: there may be something."""
    artifacts = artifacts_of(one)
    if not artifacts:
        return ()
    return (
        RetiredSet(
            snapshot_key=one.snapshot_key,
            snapshot_hash=one.snapshot_hash,
            provider_name=artifacts[0].provider_name,
            node_names=tuple(artifact.node_name for artifact in artifacts),
            retired_at=draft.now,
            reason=str(reason),
        ),
    )


def _retire_unreferenced(draft: Draft) -> None:
    kept = {one.snapshot_key for one in draft.serving_sets}
    for key, one in sorted((draft.manifest.artifact_sets or {}).items()):
        if key not in kept:
            _retire(draft, replace(one, snapshot_key=key), UNREFERENCED)


def _repair_active(draft: Draft) -> None:
    """rebuildAfter counts from the promotion; a record without it takes the next best time."""
    active, status = draft.manifest.active, draft.seen.snapshot.status
    if active is not None and active.promoted_at is None:
        known = (status.ready_at if status else None) or active.first_ready_at
        draft.put_set(replace(active, promoted_at=known or draft.now))


def _names_a_set(reference: SetReference | None) -> bool:
    return reference is not None and bool(reference.snapshot_key)


def _without(reference: SetReference | None, key: str) -> SetReference | None:
    return None if reference is not None and reference.snapshot_key == key else reference
