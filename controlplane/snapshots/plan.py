"""Decide what is to be done about one SandboxSnapshot."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec.structs import replace

from controlplane.api import names
from controlplane.api.manifest import Manifest
from controlplane.api.types import SandboxSnapshotStatus, SnapshotPhase
from controlplane.errors import CorruptError
from controlplane.snapshots.changes import count_changes, warn_of_changes
from controlplane.snapshots.collection import collect
from controlplane.snapshots.coverage import advance_sets, cover_targets, wake_for_artifacts
from controlplane.snapshots.deletion import plan_deletion
from controlplane.snapshots.dispatch import cancel_left_over, order_builds
from controlplane.snapshots.draft import Draft
from controlplane.snapshots.observed import NoManifest, Observed
from controlplane.snapshots.orders import Orders
from controlplane.snapshots.sets import (
    SOURCE_GONE,
    clear_stale,
    ensure_set,
    first_manifest,
    give_up,
    promote,
    repair,
    retire_all,
)
from controlplane.snapshots.source import Problem, Source, find_source
from controlplane.snapshots.status import plan_status, problem_status
from controlplane.snapshots.steps import (
    AddFinalizer,
    ConfirmSnapshot,
    Plan,
    PutManifest,
    RemoveForceRebuild,
    Step,
    WriteStatus,
)
from controlplane.snapshots.transitions import events_between
from controlplane.store.codec import check_owner
from controlplane.store.store import Stored


def plan_snapshot(seen: Observed, now: datetime) -> Plan:
    """What to do about a SandboxSnapshot, from all that is known of it.

    Pure: the same arguments give the same plan; performing a part of it and planning again ends
    where performing all of it does.

    Args: seen: from a store that answered and informers that have listed. now: aware, UTC.
    Returns: steps in the order in which they are safe, and when to look again at the latest; None:
    not before something changes.
    """
    now = now.replace(microsecond=0)
    meta = seen.snapshot.metadata
    if meta.is_terminating:
        return plan_deletion(seen, now)
    if names.SNAPSHOT_FINALIZER not in (meta.finalizers or ()):
        return Plan((AddFinalizer(),))
    unreadable = _find_unreadable(seen)
    if unreadable is not None:
        return _plan_unreadable(seen, unreadable, now)
    stored = seen.stored if isinstance(seen.stored, Stored) else None
    if stored is not None and stored.manifest.deleted_at is not None:
        # An old view of a snapshot that is going or gone: nothing may come back to life.
        again = now + timedelta(seconds=seen.policy.recheck_unready_s)
        return Plan((ConfirmSnapshot(),), again)
    source = find_source(seen)
    manifest = stored.manifest if stored else first_manifest(seen.snapshot, now)
    draft = Draft(seen, now, source, manifest)
    orders = Orders(seen)
    if isinstance(source, Source):
        _advance(draft, source, orders)
    else:
        _hold(draft, source, orders)
    collect(draft, orders, grace_s=seen.policy.retired_grace_s)
    cancel_left_over(draft, orders)
    return _finish(draft, stored)


def _advance(draft: Draft, source: Source, orders: Orders) -> None:
    repair(draft)
    clear_stale(draft, source)
    advance_sets(draft, source, orders)
    give_up(draft)
    ensure_set(draft, source)
    cover_targets(draft, source)
    promote(draft)
    order_builds(draft, source, orders)
    wake_for_artifacts(draft, source)


def _hold(draft: Draft, problem: Problem, orders: Orders) -> None:
    """Nothing is built. What was made stays, unless what it was made from is no more."""
    repair(draft)
    if problem.is_source_gone:
        retire_all(draft, SOURCE_GONE)
    order_builds(draft, None, orders)
    draft.wake_in(problem.recheck_s)


def _finish(draft: Draft, stored: Stored | None) -> Plan:
    seen, source, now = draft.seen, draft.source, draft.now
    before = stored.manifest if stored else None
    is_put = draft.manifest != before if before is not None else _is_worth_storing(draft.manifest)
    status = plan_status(seen.snapshot, draft.manifest, source, seen.policy, now)
    steps: list[Step] = []
    if draft.is_forced_done:  # first: lost with a crash, it would order one more rebuild
        steps.append(RemoveForceRebuild())
    if is_put:
        steps += _put(draft, stored)
    steps += draft.facts
    if is_put or stored is not None:
        steps += [*draft.cancels, *draft.creations]
    # The annotation's removal changed the snapshot: its status is written after another look.
    status_steps = [] if draft.is_forced_done else _write_status(seen, status)
    if draft.is_forced_done:
        draft.wake_in(seen.policy.again_s)
    if not is_put and not status_steps:
        steps += draft.cleanups
    elif draft.cleanups:
        draft.wake_in(seen.policy.again_s)
    is_ready = status.phase is SnapshotPhase.READY
    draft.wake_in(seen.policy.recheck_store_s if is_ready else seen.policy.recheck_unready_s)
    later = [max(when, now) for when in draft.wakes]
    return Plan((*steps, *status_steps), min(later, default=None))


def _put(draft: Draft, stored: Stored | None) -> list[Step]:
    mode = draft.seen.snapshot.spec.snapshot_mode
    version = stored.version if stored else None
    steps: list[Step] = [] if stored else [ConfirmSnapshot()]
    steps.append(PutManifest(draft.manifest, version))
    before, after = stored.manifest if stored else None, draft.manifest
    steps += count_changes(before, after, mode)
    return [*steps, *warn_of_changes(before, after, draft.seen.policy)]


def _is_worth_storing(manifest: Manifest) -> bool:
    return bool(manifest.artifact_sets or manifest.retired_sets)


def _write_status(seen: Observed, status: SandboxSnapshotStatus) -> list[Step]:
    """Every field counts: a status is either the same or is written."""
    if status == seen.snapshot.status:
        return []
    return [WriteStatus(status), *events_between(seen.snapshot.status, status)]


def _find_unreadable(seen: Observed) -> str | None:
    if seen.stored is NoManifest.CORRUPT:
        return "the stored manifest cannot be read; it is left as it is"
    if not isinstance(seen.stored, Stored):
        return None
    try:
        check_owner(seen.stored, seen.snapshot)
    except CorruptError as exc:
        return exc.message
    return None


def _plan_unreadable(seen: Observed, why: str, now: datetime) -> Plan:
    policy = seen.policy
    problem = Problem("ManifestCorrupt", why, policy.recheck_source_s)
    known = seen.snapshot.status
    # readyAt stays: it tells a later record that there was one before it.
    status = replace(
        problem_status(seen.snapshot, problem, policy, now),
        ready_at=known.ready_at if known else None,
    )
    draft = Draft(seen, now, problem, Manifest())
    draft.wake_in(problem.recheck_s)
    return Plan(tuple(_write_status(seen, status)), min(draft.wakes))
