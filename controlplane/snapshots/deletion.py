"""Decide how a SandboxSnapshot goes."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from controlplane.api import names
from controlplane.api.manifest import Manifest
from controlplane.api.types import TaskOperation
from controlplane.snapshots.changes import count_changes
from controlplane.snapshots.collection import collect
from controlplane.snapshots.dispatch import cancel_left_over
from controlplane.snapshots.draft import Draft
from controlplane.snapshots.observed import NoManifest, Observed
from controlplane.snapshots.orders import Orders
from controlplane.snapshots.sets import DELETED, first_manifest, repair, retire_all
from controlplane.snapshots.source import Problem
from controlplane.snapshots.steps import (
    ConfirmSnapshot,
    DeleteManifest,
    DeleteSandbox,
    DeleteTask,
    Plan,
    PutManifest,
    RemoveFinalizer,
    Step,
)
from controlplane.store.store import Stored

_GOING = Problem("Deleting", "the snapshot is being deleted", 0.0)


def plan_deletion(seen: Observed, now: datetime) -> Plan:
    """Tombstone, orders away, artifacts away, record away, finalizer away: in that order.

    An absent record is proven absent by writing the tombstone where there must be none; but an old
    view of a snapshot that is gone must not leave a record that nobody would ever remove.
    """
    if names.SNAPSHOT_FINALIZER not in (seen.snapshot.metadata.finalizers or ()):
        return Plan()
    if seen.stored is NoManifest.CORRUPT:
        return _plan_unreadable(seen, now)
    draft = _begin(seen, now)
    orders = Orders(seen)
    collect(draft, orders, grace_s=seen.policy.deletion_grace_s)
    cancel_left_over(draft, orders)
    version = seen.stored.version if isinstance(seen.stored, Stored) else None
    before = seen.stored.manifest if isinstance(seen.stored, Stored) else None
    steps: list[Step] = []
    if before is None:
        steps.append(ConfirmSnapshot(may_be_going=True))
    if draft.manifest != before:
        steps.append(PutManifest(draft.manifest, version))
        steps += count_changes(before, draft.manifest, seen.snapshot.spec.snapshot_mode)
        draft.wake_in(seen.policy.again_s)
    steps += [*draft.facts, *draft.cancels]
    if draft.manifest == before and _is_over(draft, before):
        steps += [DeleteManifest(version), RemoveFinalizer()]
        return Plan(tuple(steps))
    return Plan((*steps, *draft.creations), min(draft.wakes))


def _begin(seen: Observed, now: datetime) -> Draft:
    manifest = (
        seen.stored.manifest
        if isinstance(seen.stored, Stored)
        else first_manifest(seen.snapshot, now)
    )
    draft = Draft(seen, now, _GOING, manifest)
    draft.wake_in(seen.policy.recheck_unready_s)
    if manifest.deleted_at is None:
        repair(draft)
        retire_all(draft, DELETED)
        draft.manifest = replace(draft.manifest, deleted_at=now)
    return draft


def _is_over(draft: Draft, manifest: Manifest) -> bool:
    """All is done, or cannot be: the bound is reached, or nobody takes orders any more. The agents'
    own sweep finds what is left."""
    is_done = not manifest.retired_sets and not draft.cancels
    return (
        is_done
        or _is_refused(draft)
        or draft.is_due(manifest.deleted_at or draft.now, draft.seen.policy.deletion_s)
    )


def _is_refused(draft: Draft) -> bool:
    """The API server had no order of late, and has none: as of a namespace that goes too."""
    has_orders = any(one.spec.operation is TaskOperation.DELETE for one in draft.seen.tasks)
    return bool(draft.seen.refused) and not has_orders


def _plan_unreadable(seen: Observed, now: datetime) -> Plan:
    """Nobody can say what is on which node: wait as long as for one that is away, then let go."""
    steps: list[Step] = [DeleteTask(t.metadata.name, t.metadata.uid) for t in seen.tasks]
    steps += [DeleteSandbox(s.metadata.name, s.metadata.uid) for s in seen.sandboxes]
    draft = Draft(seen, now, _GOING, Manifest())
    if draft.is_due(seen.snapshot.metadata.deletion_timestamp or now, seen.policy.deletion_s):
        return Plan((*steps, DeleteManifest(None), RemoveFinalizer()))
    return Plan(tuple(steps), min(draft.wakes))
