"""Define the manifest: what the artifact store keeps of one SandboxSnapshot."""

from __future__ import annotations

import enum
from datetime import datetime

from controlplane.api.meta import Camel, OwnerReference
from controlplane.api.types import ArtifactPhase

SCHEMA_VERSION = 1


class SetReason(enum.StrEnum):
    """Why a set was begun."""

    INITIAL = "initial"
    SOURCE_CHANGE = "source_change"
    REBUILD_AFTER = "rebuild_after"
    FORCE = "force"
    INVALIDATED = "invalidated"


class SetReference(Camel, frozen=True):
    """Names a set; an empty key, an empty object, null, an absent member all mean none."""

    snapshot_key: str = ""


class Retry(Camel, frozen=True):
    """How often a node's build failed; when it is tried again."""

    failure_count: int = 0
    last_failed_at: datetime | None = None
    next_retry_at: datetime | None = None


class Artifact(Camel, frozen=True):
    """One node's artifact in a set.

    created_at: when it first became Ready. attempt: number of the build in progress or done last,
    from 1; names of its Sandbox and task derive from it. started_at: when that attempt began.
    """

    provider_name: str = ""
    node_name: str = ""
    node_uid: str = ""
    phase: ArtifactPhase = ArtifactPhase.CREATING
    snapshot_key: str = ""
    snapshot_hash: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    attempt: int = 1
    retry: Retry | None = None
    message: str = ""


class ArtifactSet(Camel, frozen=True):
    """All artifacts of one logical version; at most one for each node.

    promoted_at: when it became the active set; the snapshot's `readyAt`, from which its age counts.
    """

    snapshot_key: str = ""
    snapshot_hash: str = ""
    artifacts: tuple[Artifact, ...] | None = None
    started_at: datetime | None = None
    first_ready_at: datetime | None = None
    promoted_at: datetime | None = None
    reason: SetReason | None = None


class RetiredSet(Camel, frozen=True):
    """A set out of service; its artifacts are deleted from nodes once the grace time is over."""

    snapshot_key: str = ""
    snapshot_hash: str = ""
    provider_name: str = ""
    node_names: tuple[str, ...] | None = None
    retired_at: datetime | None = None
    reason: str = ""


class Manifest(Camel, frozen=True):
    """The record of one SandboxSnapshot.

    rebuild_seq: of the newest set; only grows. deleted_at: a tombstone, the snapshot is going.
    """

    schema_version: int = SCHEMA_VERSION
    owner_ref: OwnerReference | None = None
    artifact_sets: dict[str, ArtifactSet] | None = None
    active_set_ref: SetReference | None = None
    pending_set_ref: SetReference | None = None
    rebuild_seq: int = 0
    retired_sets: tuple[RetiredSet, ...] | None = None
    next_rebuild_at: datetime | None = None
    deleted_at: datetime | None = None

    @property
    def active(self) -> ArtifactSet | None:
        """The set that serves sessions; none if the reference dangles."""
        return self._named(self.active_set_ref)

    @property
    def pending(self) -> ArtifactSet | None:
        """The set being built; none if the reference dangles."""
        return self._named(self.pending_set_ref)

    def _named(self, reference: SetReference | None) -> ArtifactSet | None:
        if reference is None or not reference.snapshot_key:
            return None
        return (self.artifact_sets or {}).get(reference.snapshot_key)
