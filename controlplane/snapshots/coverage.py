"""Bring a set's artifacts up to date with nodes, tasks, time."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from controlplane.api.manifest import Artifact, ArtifactSet
from controlplane.api.types import ArtifactPhase, TaskOperation
from controlplane.snapshots.artifacts import (
    Site,
    advance_artifact,
    begin_artifact,
    build_deadline,
)
from controlplane.snapshots.draft import Draft, artifacts_of
from controlplane.snapshots.health import Health, judge_node
from controlplane.snapshots.orders import Orders, name_of_task, why_ended
from controlplane.snapshots.source import Source

_NO_NODE = Health("the node was removed")


def advance_sets(draft: Draft, source: Source, orders: Orders) -> None:
    """Both sets alike: what serves is maintained while its replacement is built."""
    for one in draft.serving_sets:
        artifacts = _advanced(draft, source, orders, one)
        _put_artifacts(draft, one, artifacts)


def cover_targets(draft: Draft, source: Source) -> None:
    """Record a build for each target that a set does not have yet."""
    for one in draft.serving_sets:
        if not draft.can_build(one):
            continue
        known = {artifact.node_name for artifact in artifacts_of(one)}
        if known.issuperset(source.target_names):
            continue
        missing = (name for name in source.targets.nodes if name not in known)
        added = tuple(_begin(draft, source, one, name) for name in missing)
        _put_artifacts(draft, one, artifacts_of(one) + added)


def wake_for_artifacts(draft: Draft, source: Source) -> None:
    """Deadlines of builds, ends of delays."""
    policy = draft.seen.policy
    for one in draft.serving_sets:
        can_build = draft.can_build(one)
        for artifact in artifacts_of(one):
            if artifact.phase is ArtifactPhase.CREATING:
                draft.wake_at(build_deadline(artifact, policy, draft.now))
            elif artifact.phase is ArtifactPhase.FAILED and can_build:
                retry = artifact.retry
                if retry and retry.next_retry_at and artifact.node_name in source.target_names:
                    draft.wake_at(retry.next_retry_at)


def _advanced(
    draft: Draft, source: Source, orders: Orders, one: ArtifactSet
) -> tuple[Artifact, ...]:
    policy, now = draft.seen.policy, draft.now
    can_build = draft.can_build(one)
    kept: list[Artifact] = []
    is_changed = False
    for artifact in artifacts_of(one):
        site = _site(draft, source, orders, artifact, can_build)
        if site.health.until is not None:
            draft.wake_at(site.health.until)
        after = advance_artifact(artifact, site, policy, now)
        is_changed = is_changed or after is not artifact
        if after is None:
            continue
        kept.append(after)
        if after.phase is ArtifactPhase.UNAVAILABLE and _can_be_inspected(after, site):
            draft.inspections.add((after.snapshot_key, after.node_name))
    return tuple(kept) if is_changed else artifacts_of(one)


def _can_be_inspected(artifact: Artifact, site: Site) -> bool:
    """Its machine is fit; another one of that name knows nothing of it."""
    uid = site.node.metadata.uid if site.node is not None else ""
    return site.health.is_good and artifact.node_uid in ("", uid)


def _site(
    draft: Draft, source: Source, orders: Orders, artifact: Artifact, can_build: bool
) -> Site:
    name = artifact.node_name
    node = draft.seen.nodes.get(name)
    if node is None:
        is_left = orders.is_any_left(artifact.snapshot_key, name)
        return Site(None, _NO_NODE, is_target=False, can_build=False, has_orders=is_left)
    health = judge_node(draft.seen, source, node, draft.now, is_current=can_build)
    is_target = can_build and name in source.target_names
    refusal = _refusal(draft, orders, artifact)
    if refusal:
        return Site(node, health, is_target=is_target, can_build=can_build, ended=refusal)
    if not orders.is_busy(name):
        return Site(node, health, is_target=is_target, can_build=can_build)
    sandbox = orders.sandbox(artifact)
    build = orders.task(artifact, TaskOperation.CREATE)
    return Site(
        node,
        health,
        is_target=is_target,
        can_build=can_build,
        has_orders=orders.is_any_left(artifact.snapshot_key, name),
        has_build=sandbox is not None and build is not None,
        build=build,
        inspection=orders.task(artifact, TaskOperation.INSPECT),
        ended=why_ended(sandbox),
    )


def _refusal(draft: Draft, orders: Orders, artifact: Artifact) -> str:
    """What the API server said when it would not have this attempt's Sandbox or task."""
    refused = draft.seen.refused
    if not refused or artifact.phase is not ArtifactPhase.CREATING:
        return ""
    names = (orders.name_of_sandbox(artifact), name_of_task(artifact, TaskOperation.CREATE))
    return next((refused[name] for name in names if name in refused), "")


def _begin(draft: Draft, source: Source, one: ArtifactSet, name: str) -> Artifact:
    return begin_artifact(
        source.nodes[name],
        source.provider_name,
        one.snapshot_key,
        one.snapshot_hash,
        draft.now,
    )


def _put_artifacts(draft: Draft, one: ArtifactSet, artifacts: tuple[Artifact, ...]) -> None:
    if artifacts is artifacts_of(one):
        return
    draft.put_set(
        replace(
            one,
            artifacts=artifacts or None,
            first_ready_at=one.first_ready_at or _first_ready(artifacts, draft.now),
        )
    )


def _first_ready(artifacts: tuple[Artifact, ...], now: datetime) -> datetime | None:
    return now if any(one.phase is ArtifactPhase.READY for one in artifacts) else None
