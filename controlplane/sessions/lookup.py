"""Find the restore intent of a new session."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from controlplane.api.core import SandboxTemplate
from controlplane.api.kuasar import SessionIdentity, session_annotations
from controlplane.api.types import SandboxSnapshot, SnapshotClass, SnapshotMode
from controlplane.errors import ControlPlaneError, CorruptError, RejectedError
from controlplane.sessions.choose import choose_key
from controlplane.sessions.decision import Decision, StartReason, cold
from controlplane.sessions.index import GroupKey, SessionIndex
from controlplane.sessions.session import SessionStart, without_restore_annotations
from controlplane.snapshots.hash import compute_hash, session_source
from controlplane.store.store import ArtifactStore, OwnerKey

STORE_BUDGET_S: Final = 0.2
# The newest ready one serves nearly always; the rest are tried while it is being rebuilt.
MOST_CANDIDATES: Final = 4


@dataclass(frozen=True)
class IntentSources:
    """What a lookup reads.

    store: guarded by a breaker; None if snapshots are off. budget_s: for all reads of one lookup.
    """

    index: SessionIndex
    store: ArtifactStore | None
    budget_s: float = STORE_BUDGET_S


async def find_restore_intent(sources: IntentSources, session: SessionStart) -> Decision:
    """What a session restores from, or why it starts cold.

    The newest ready snapshot of its template whose active set was made from what this session runs,
    hashed now. Nothing is cached. When none fits, the reason is the newest one's.
    Cancellation: abandons the store read.
    """
    group = GroupKey(session.namespace, session.template, SnapshotMode.FORK)
    if not sources.index.has_any(group):
        return cold(StartReason.NO_SNAPSHOT)
    if sources.store is None:
        return cold(StartReason.STORE_DISABLED)
    candidates = sources.index.candidates(group, MOST_CANDIDATES)
    if not candidates:
        return cold(StartReason.NOT_READY)
    return await _first_match(sources, sources.store, session, candidates)


async def _first_match(
    sources: IntentSources,
    store: ArtifactStore,
    session: SessionStart,
    candidates: list[SandboxSnapshot],
) -> Decision:
    first: Decision | None = None
    try:
        async with asyncio.timeout(sources.budget_s):
            for snapshot in candidates:
                decision = await _try(sources, store, session, snapshot)
                if decision.key is not None:
                    return decision
                first = first or decision
                if decision.reason is StartReason.STORE_TIMEOUT:
                    break
    except TimeoutError:
        return first or cold(StartReason.STORE_TIMEOUT, candidates[0].metadata.name)
    return first or cold(StartReason.NOT_READY)


async def _try(
    sources: IntentSources, store: ArtifactStore, session: SessionStart, snapshot: SandboxSnapshot
) -> Decision:
    """The dear part, the hash, comes last: most that can refuse has refused by then."""
    name = snapshot.metadata.name
    snapshot_class = sources.index.snapshot_class(snapshot.spec.snapshot_class_name)
    template = sources.index.template(session.namespace, session.template)
    if snapshot_class is None or template is None:
        return cold(StartReason.HASH_MISMATCH, name)
    try:
        stored = await store.get(_owner(snapshot))
    except CorruptError:
        return cold(StartReason.MANIFEST_CORRUPT, name)
    except ControlPlaneError as exc:
        is_late = isinstance(exc.__cause__, TimeoutError)
        return cold(StartReason.STORE_TIMEOUT if is_late else StartReason.STORE_ERROR, name)
    manifest = stored.manifest if stored else None
    has_set = manifest is not None and manifest.active is not None
    session_hash = _hash(session, template, snapshot_class) if has_set else ""
    decision = choose_key(snapshot, manifest, snapshot_class, session_hash)
    return _with_annotations(decision, snapshot_class, session)


def _with_annotations(
    decision: Decision, snapshot_class: SnapshotClass, session: SessionStart
) -> Decision:
    if decision.key is None:
        return decision
    identity = SessionIdentity(session.namespace, session.name, session.session_id)
    told = session_annotations(snapshot_class, decision.key, identity)
    return replace(decision, provider_annotations=told)


def _hash(session: SessionStart, template: SandboxTemplate, snapshot_class: SnapshotClass) -> str:
    """Of what the session runs; empty for what Kubernetes cannot hold, which equals nothing."""
    try:
        spec = without_restore_annotations(session.spec)
        return compute_hash(session_source(spec, template, snapshot_class))
    except RejectedError:
        return ""


def _owner(snapshot: SandboxSnapshot) -> OwnerKey:
    meta = snapshot.metadata
    return OwnerKey(meta.namespace, meta.name, meta.uid)
