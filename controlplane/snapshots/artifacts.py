"""Decide how one node's artifact goes on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from controlplane.api.builds import PROTOCOL_NOT_SUPPORTED
from controlplane.api.core import Node
from controlplane.api.manifest import Artifact, Retry
from controlplane.api.types import ArtifactPhase, SandboxSnapshotTask
from controlplane.snapshots.health import Health
from controlplane.snapshots.policy import Policy

_MESSAGE_CHARS: Final = 300


@dataclass(frozen=True)
class Site:
    """What bears on one artifact.

    node: None if it was removed from the cluster. is_target: it may be built there now, from the
    source that its set is made of. build, inspection: its own tasks. ended: why its build Sandbox
    can never become ready. has_orders: a task or Sandbox of this key still is on the node.
    """

    node: Node | None
    health: Health
    is_target: bool
    can_build: bool
    has_orders: bool = False
    has_build: bool = False
    build: SandboxSnapshotTask | None = None
    inspection: SandboxSnapshotTask | None = None
    ended: str = ""


def advance_artifact(
    artifact: Artifact, site: Site, policy: Policy, now: datetime
) -> Artifact | None:
    """The artifact's next state; None: forget it, nothing of it is left."""
    if site.node is None:
        return _leave(artifact, "the node was removed") if site.has_orders else None
    uid = site.node.metadata.uid
    if artifact.node_uid and artifact.node_uid != uid:
        return _rejoin(artifact, site, uid, now)
    known = artifact if artifact.node_uid else replace(artifact, node_uid=uid)
    if known.phase is ArtifactPhase.CREATING:
        known = _judge_build(known, site, policy, now)
    match known.phase:
        case ArtifactPhase.READY:
            return _leave(known, site.health.outage) if site.health.outage else known
        case ArtifactPhase.UNAVAILABLE:
            return _judge_recovery(known, site, now)
        case ArtifactPhase.FAILED:
            return _judge_retry(known, site, policy, now)
    return known


def begin_artifact(
    node: Node, provider_name: str, key: str, snapshot_hash: str, now: datetime
) -> Artifact:
    """The record of a build that is about to start."""
    return Artifact(
        provider_name=provider_name,
        node_name=node.metadata.name,
        node_uid=node.metadata.uid,
        snapshot_key=key,
        snapshot_hash=snapshot_hash,
        started_at=now,
    )


def is_exhausted(artifact: Artifact, policy: Policy) -> bool:
    """It failed, its budget is spent."""
    if artifact.phase is not ArtifactPhase.FAILED:
        return False
    retry = artifact.retry
    return retry is None or retry.next_retry_at is None or retry.failure_count >= policy.attempts


def is_terminal(artifact: Artifact, policy: Policy) -> bool:
    """Nothing is under way there, and nothing will be soon."""
    if artifact.phase is ArtifactPhase.CREATING:
        return False
    return artifact.phase is not ArtifactPhase.FAILED or is_exhausted(artifact, policy)


def _rejoin(artifact: Artifact, site: Site, uid: str, now: datetime) -> Artifact | None:
    """Another machine took the name: what the old one held is gone with it."""
    if site.is_target:
        return _restart(replace(artifact, node_uid=uid, created_at=None, retry=None), now)
    return _leave(artifact, "the node was replaced") if site.has_orders else None


def _judge_build(artifact: Artifact, site: Site, policy: Policy, now: datetime) -> Artifact:
    status = site.build.status if site.build else None
    phase = status.phase if status else None
    if phase is ArtifactPhase.READY:
        created_at = artifact.created_at or now
        return replace(
            artifact, phase=ArtifactPhase.READY, created_at=created_at, retry=None, message=""
        )
    if phase is not None and status is not None and phase.is_terminal_for_task:
        return _fail(artifact, status.message or "the agent gave no reason", policy, now)
    if site.ended:
        return _fail(artifact, site.ended, policy, now)
    if now >= build_deadline(artifact, policy, now):
        said = f"; the agent says: {status.message}" if status and status.message else ""
        return _fail(artifact, f"not done within {policy.build_s:.0f} s{said}", policy, now)
    if not site.can_build and not site.has_build:
        return _fail(artifact, "the source changed before the build began", policy, now)
    return artifact


def build_deadline(artifact: Artifact, policy: Policy, now: datetime) -> datetime:
    """When the attempt is given up; one without a start counts from now."""
    return (artifact.started_at or now) + timedelta(seconds=policy.build_s)


def _judge_recovery(artifact: Artifact, site: Site, now: datetime) -> Artifact:
    if not site.health.is_good:
        outage = site.health.outage
        return replace(artifact, message=outage) if outage else artifact
    status = site.inspection.status if site.inspection else None
    if status is None or status.phase is None or not status.phase.is_terminal_for_task:
        return replace(artifact, message="waiting for its inspection")
    if status.phase is ArtifactPhase.READY:
        return replace(artifact, phase=ArtifactPhase.READY, message="", retry=None)
    if site.is_target:
        return _restart(artifact, now)
    said = f"the artifact is lost: {status.message}".rstrip(": ")
    return replace(artifact, phase=ArtifactPhase.FAILED, message=said, retry=None)


def _judge_retry(artifact: Artifact, site: Site, policy: Policy, now: datetime) -> Artifact:
    retry = artifact.retry
    if not site.is_target:
        return artifact
    if retry is None:  # lost while its set could not be built from the source
        return _restart(artifact, now)
    if retry.next_retry_at is None or now < retry.next_retry_at:
        return artifact
    if retry.failure_count >= policy.attempts:
        retry = replace(retry, failure_count=0)
    return _restart(replace(artifact, retry=replace(retry, next_retry_at=None)), now)


def _restart(artifact: Artifact, now: datetime) -> Artifact:
    return replace(
        artifact,
        phase=ArtifactPhase.CREATING,
        attempt=artifact.attempt + 1,
        started_at=now,
        message="",
    )


def _leave(artifact: Artifact, why: str) -> Artifact:
    """Out of use. The next attempt's number keeps answers to older questions from counting."""
    if artifact.phase is ArtifactPhase.UNAVAILABLE:
        return replace(artifact, message=why)
    return replace(
        artifact, phase=ArtifactPhase.UNAVAILABLE, attempt=artifact.attempt + 1, message=why
    )


def _fail(artifact: Artifact, why: str, policy: Policy, now: datetime) -> Artifact:
    failures = (artifact.retry.failure_count if artifact.retry else 0) + 1
    is_final = why.startswith(PROTOCOL_NOT_SUPPORTED)
    retry = Retry(
        failure_count=failures,
        last_failed_at=now,
        next_retry_at=None if is_final else now + policy.retry_delay(failures),
    )
    return replace(artifact, phase=ArtifactPhase.FAILED, retry=retry, message=why[:_MESSAGE_CHARS])
