"""Decide whether a session may restore from one snapshot."""

from __future__ import annotations

from controlplane.api import names
from controlplane.api.manifest import SCHEMA_VERSION, Artifact, ArtifactSet, Manifest
from controlplane.api.types import ArtifactPhase, SandboxSnapshot, SnapshotClass
from controlplane.sessions.decision import Decision, StartReason, cold


def choose_key(
    snapshot: SandboxSnapshot,
    manifest: Manifest | None,
    snapshot_class: SnapshotClass,
    session_hash: str,
) -> Decision:
    """The snapshot's active key if it is this session's, else why not.

    Args: manifest: as stored, None if there is none. session_hash: of the session's own pod spec,
    computed now with the snapshot's template and class.
    """
    reason = _refuse(snapshot, manifest, snapshot_class, session_hash)
    if reason is not None or manifest is None or manifest.active is None:
        return cold(reason or StartReason.NO_ACTIVE_SET, snapshot.metadata.name)
    return Decision(
        manifest.active.snapshot_key, StartReason.RESTORED_INTENT, snapshot.metadata.name
    )


def _refuse(
    snapshot: SandboxSnapshot,
    manifest: Manifest | None,
    snapshot_class: SnapshotClass,
    session_hash: str,
) -> StartReason | None:
    if manifest is None:
        return StartReason.NO_ACTIVE_SET
    if not _is_owned_by(manifest, snapshot) or manifest.schema_version > SCHEMA_VERSION:
        return StartReason.MANIFEST_CORRUPT
    active = manifest.active
    if active is None or manifest.deleted_at is not None:
        return StartReason.NO_ACTIVE_SET
    if manifest.active_set_ref is None or active.snapshot_key != (
        manifest.active_set_ref.snapshot_key
    ):
        return StartReason.MANIFEST_CORRUPT
    if not session_hash or active.snapshot_hash != session_hash:
        return StartReason.HASH_MISMATCH
    provider = snapshot_class.spec.provider_name
    if not any(_is_usable(one, active, provider) for one in active.artifacts or ()):
        return StartReason.NO_READY_ARTIFACT
    return None


def _is_owned_by(manifest: Manifest, snapshot: SandboxSnapshot) -> bool:
    owner = manifest.owner_ref
    return (
        owner is not None
        and owner.api_version.partition("/")[0] == names.GROUP
        and owner.kind == "SandboxSnapshot"
        and owner.name == snapshot.metadata.name
        and bool(owner.uid)
        and owner.uid == snapshot.metadata.uid
    )


def _is_usable(artifact: Artifact, holder: ArtifactSet, provider: str) -> bool:
    return (
        artifact.phase is ArtifactPhase.READY
        and bool(provider)
        and artifact.provider_name == provider
        and artifact.snapshot_key == holder.snapshot_key
        and artifact.snapshot_hash == holder.snapshot_hash
    )
