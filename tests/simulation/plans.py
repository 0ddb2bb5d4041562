"""State what every plan of the snapshot controller must be like, given what it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from controlplane.api import names
from controlplane.api.keys import key_id
from controlplane.api.manifest import Artifact, ArtifactSet, Manifest
from controlplane.api.types import ArtifactPhase, TaskOperation
from controlplane.snapshots.hash import compute_hash, fork_source
from controlplane.snapshots.observed import Observed
from controlplane.snapshots.steps import (
    CreateBuildSandbox,
    CreateTask,
    DeleteSandbox,
    Plan,
    PutManifest,
)
from controlplane.store.store import Stored

_READY, _CREATING, _FAILED = ArtifactPhase.READY, ArtifactPhase.CREATING, ArtifactPhase.FAILED


def judge_plan(seen: Observed, plan: Plan, now: datetime) -> Iterator[str]:
    """The sentences that a plan breaks."""
    before = seen.stored.manifest if isinstance(seen.stored, Stored) else None
    yield from _judge_order(seen, plan, before)
    if seen.snapshot.metadata.is_terminating:
        return
    puts = [step.manifest for step in plan.steps if isinstance(step, PutManifest)]
    after = puts[0] if puts else before
    if after is None or after.deleted_at is not None:
        return
    if seen.template is None or seen.snapshot_class is None:
        return
    yield from _judge_promotion(seen, before, after, now)
    yield from _judge_nodes(seen, after)
    yield from _judge_leftovers(seen, plan, after)
    yield from _judge_pending(seen, after)


def _judge_order(seen: Observed, plan: Plan, before: Manifest | None) -> Iterator[str]:
    """What could leak is on record before it is made."""
    known = before
    for step in plan.steps:
        match step:
            case PutManifest():
                known = step.manifest
            case CreateBuildSandbox():
                key = step.sandbox.metadata.label(names.SNAPSHOT_KEY_ID)
                if key not in {key_id(one) for one in _sets(known)}:
                    yield "what could leak is on record before it is made"
            case CreateTask() if step.task.spec.operation is TaskOperation.CREATE:
                if not _is_recorded(known, step.task.spec.snapshot_key, step.task.spec):
                    yield "what could leak is on record before it is made"


def _is_recorded(known: Manifest | None, key: str, spec: object) -> bool:
    node = getattr(spec, "target_node_name", "")
    one = _sets(known).get(key)
    return one is not None and any(a.node_name == node for a in _artifacts(one))


def _judge_promotion(
    seen: Observed, before: Manifest | None, after: Manifest, now: datetime
) -> Iterator[str]:
    active, old = after.active, before.active if before else None
    if active is None or (old is not None and old.snapshot_key == active.snapshot_key):
        return
    assert seen.template is not None
    assert seen.snapshot_class is not None
    if active.snapshot_hash != compute_hash(fork_source(seen.template, seen.snapshot_class)):
        yield "only a set of the present source takes over"
    if old is None or old.snapshot_hash != active.snapshot_hash:
        return
    # What served before may have lost nodes in the same plan: what is known of it after that.
    kept = (a for a in _artifacts(old) if a.phase is _READY and _is_there(seen, a))
    ready_before = len({a.node_name for a in kept})
    ready = sum(a.phase is _READY for a in _artifacts(active))
    under_way = any(
        a.phase is _CREATING
        or (a.phase is _FAILED and (a.retry is None or a.retry.failure_count < 3))
        for a in _artifacts(active)
    )
    begun = active.first_ready_at or now
    is_late = now - begun >= timedelta(seconds=seen.policy.promotion_s - 1)
    is_fit = all(_is_fit(seen, name) for name in _names(old))
    if is_fit and ready < ready_before and under_way and not is_late:
        yield "a replacement does not shrink what serves"


def _is_there(seen: Observed, artifact: Artifact) -> bool:
    """Its node is, and is the machine that it was made on."""
    node = seen.nodes.get(artifact.node_name)
    return node is not None and artifact.node_uid in ("", node.metadata.uid)


def _is_fit(seen: Observed, name: str) -> bool:
    """Nothing in sight takes this node's artifact out of use in this very plan."""
    node = seen.nodes.get(name)
    if node is None or node.ready is None or node.ready.status != "True":
        return False
    assert seen.snapshot_class is not None
    label = names.provider_label(seen.snapshot_class.spec.provider_name)
    is_able = name in seen.living_agents and node.metadata.label(label) == "true"
    return is_able and not node.spec.unschedulable and not node.spec.taints


def _judge_nodes(seen: Observed, after: Manifest) -> Iterator[str]:
    """Nothing is Ready on a node that does not exist, or is another machine by now."""
    for one in (after.active, after.pending):
        for artifact in _artifacts(one):
            node = seen.nodes.get(artifact.node_name)
            if artifact.phase is not _READY:
                continue
            if node is None:
                yield "nothing is Ready on a node that is gone"
            elif artifact.node_uid not in ("", node.metadata.uid):
                yield "nothing is Ready on another machine of that name"


def _judge_leftovers(seen: Observed, plan: Plan, after: Manifest) -> Iterator[str]:
    """A build Sandbox that no set wants goes."""
    wanted = {key_id(one) for one in _sets(after)}
    deleted = {step.uid for step in plan.steps if isinstance(step, DeleteSandbox)}
    for sandbox in seen.sandboxes:
        meta = sandbox.metadata
        is_wanted = meta.label(names.SNAPSHOT_KEY_ID) in wanted
        if not is_wanted and not meta.is_terminating and meta.uid not in deleted:
            yield "a build Sandbox that no set wants goes"


def _judge_pending(seen: Observed, after: Manifest) -> Iterator[str]:
    """A replacement that has failed everywhere makes room."""
    pending = after.pending
    if after.active is None or pending is None or not _artifacts(pending):
        return
    most = seen.policy.attempts
    if all(
        a.phase is _FAILED and a.retry is not None and a.retry.failure_count >= most
        for a in _artifacts(pending)
    ):
        yield "a replacement that has failed everywhere makes room"


def _sets(manifest: Manifest | None) -> dict[str, ArtifactSet]:
    return (manifest.artifact_sets or {}) if manifest is not None else {}


def _artifacts(one: ArtifactSet | None) -> tuple[Artifact, ...]:
    return (one.artifacts or ()) if one is not None else ()


def _names(one: ArtifactSet) -> set[str]:
    return {artifact.node_name for artifact in _artifacts(one)}
