"""Manifests and keys for the stores."""

from __future__ import annotations

from datetime import UTC, datetime

from controlplane.api.manifest import (
    Artifact,
    ArtifactSet,
    Manifest,
    RetiredSet,
    Retry,
    SetReason,
    SetReference,
)
from controlplane.api.meta import OwnerReference
from controlplane.api.types import ArtifactPhase
from controlplane.store.store import OwnerKey

KEY = OwnerKey("team", "python-ready", "6f1c")
WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
OWNER = OwnerReference(
    api_version="runtime.agentcube.volcano.sh/v1alpha1",
    kind="SandboxSnapshot",
    name=KEY.name,
    uid=KEY.uid,
)


def manifest(seq: int = 1, nodes: tuple[str, ...] = ("node-a", "node-b")) -> Manifest:
    """One with something in every member."""
    key, digest = f"python-ready-fork-g1-r{seq}", "sha256:" + "0" * 64
    artifacts = tuple(
        Artifact(
            provider_name="p",
            node_name=node,
            phase=ArtifactPhase.FAILED,
            snapshot_key=key,
            snapshot_hash=digest,
            retry=Retry(failure_count=1, next_retry_at=WHEN),
            message='it said "no" in Zürich',
        )
        for node in nodes
    )
    one = ArtifactSet(
        snapshot_key=key,
        snapshot_hash=digest,
        artifacts=artifacts,
        started_at=WHEN,
        reason=SetReason.INITIAL,
    )
    retired = RetiredSet(snapshot_key="old", provider_name="p", node_names=nodes, retired_at=WHEN)
    return Manifest(
        owner_ref=OWNER,
        artifact_sets={key: one},
        pending_set_ref=SetReference(snapshot_key=key),
        rebuild_seq=seq,
        retired_sets=(retired,),
    )
