"""State where a healthy world ends up once nobody disturbs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controlplane.api.core import Node
from controlplane.api.manifest import ArtifactSet, Manifest, RetiredSet
from controlplane.api.names import FORCE_REBUILD, SNAPSHOT_UID, provider_label
from controlplane.api.types import ArtifactPhase, SandboxSnapshot, SnapshotPhase
from controlplane.snapshots.hash import compute_hash, fork_source
from controlplane.store.store import OwnerKey

if TYPE_CHECKING:
    from .world import World


def why_not_at_rest(world: World) -> list[str]:
    """What is not yet as it should end; empty at rest."""
    reasons = _leftovers(world)
    for snapshot in world.truth.snapshots.all():
        reasons += [
            f"{snapshot.metadata.namespace}/{snapshot.metadata.name}: {why}"
            for why in _snapshot_reasons(world, snapshot)
        ]
    return reasons


def _leftovers(world: World) -> list[str]:
    truth = world.truth
    held = _held(world)
    reasons = [
        f"{name} does not advertise its providers"
        for name in world.agents
        if (node := truth.nodes.get(name)) and not _advertises(node, world.machines[name].providers)
    ]
    reasons += [
        f"task {task.metadata.name} is left"
        for task in truth.tasks.all()
        if task.spec.snapshot_uid not in held
    ]
    reasons += [
        f"build Sandbox {one.metadata.name} is left"
        for one in truth.sandboxes.all()
        if one.metadata.label(SNAPSHOT_UID) and one.metadata.label(SNAPSHOT_UID) not in held
    ]
    alive = {one.metadata.uid: one for one in truth.snapshots.all()}
    for text in world.memory.texts:
        key = OwnerKey.parse(text)
        if key is None or key.uid not in alive:
            reasons.append(f"manifest {text} has no snapshot")
    for machine in world.machines.values():
        for name, physical in machine.artifacts.items():
            owner = physical.facts.owner
            if owner is None or owner.snapshot_uid not in alive:
                reasons.append(f"artifact {name} on {machine.name} has no snapshot")
    return reasons


def _held(world: World) -> set[str]:
    """UIDs of snapshots whose class is missing: what was under way waits for it."""
    return {
        one.metadata.uid
        for one in world.truth.snapshots.all()
        if world.truth.classes.get(one.spec.snapshot_class_name) is None
        and not one.metadata.is_terminating
    }


def _snapshot_reasons(world: World, snapshot: SandboxSnapshot) -> list[str]:
    meta = snapshot.metadata
    if meta.is_terminating:
        return ["it is not gone yet"]
    status = snapshot.status
    if status is None:
        return ["it has no status"]
    manifest = world.invariants.manifest(OwnerKey(meta.namespace, meta.name, meta.uid))
    truth = world.truth
    template = truth.templates.get(snapshot.spec.source_ref.name, meta.namespace)
    snapshot_class = truth.classes.get(snapshot.spec.snapshot_class_name)
    reasons = [f"{one.snapshot_key} is retired" for one in _retired(manifest)]
    if snapshot_class is None:
        return reasons + _expect_failed(status, "no class")
    if template is None:
        if manifest is not None and (manifest.artifact_sets or manifest.retired_sets):
            reasons.append("sets of a template that is gone")
        return reasons + _expect_failed(status, "no template")
    digest = compute_hash(fork_source(template, snapshot_class))
    provider = snapshot_class.spec.provider_name
    spec = template.spec.pod_template.spec
    wanted = [spec.get("nodeSelector") or {}, snapshot_class.spec.node_selector or {}]
    eligible = sorted(
        node.metadata.name
        for node in truth.nodes.all()
        if all(_is_eligible(node, provider, one) for one in wanted)
    )
    if spec.get("runtimeClassName") and not world.has_runtime_class:
        eligible = []
    active = manifest.active if manifest else None
    policy = snapshot.spec.fork_policy
    is_kept = policy is not None and policy.rebuild_on_source_change is False
    if manifest is not None and manifest.pending is not None and (eligible or active):
        reasons.append("a set is pending")
    if active is not None and active.snapshot_hash != digest:
        if is_forced(snapshot) and eligible:
            reasons.append("an order to rebuild is open")
        return reasons + ([] if is_kept else ["the active set is of another source"])
    if not eligible:
        return reasons + _expect_failed(status, "no eligible node")
    if is_forced(snapshot):
        reasons.append("an order to rebuild is open")
    if status.phase is not SnapshotPhase.READY or active is None:
        return [*reasons, f"phase {status.phase.value}: {status.message}"]
    if status.ready_at != active.promoted_at:
        reasons.append("readyAt is not the active set's")
    return reasons + _ready_reasons(world, active, eligible)


def _retired(manifest: Manifest | None) -> tuple[RetiredSet, ...]:
    return (manifest.retired_sets or ()) if manifest is not None else ()


def _expect_failed(status: Any, why: str) -> list[str]:
    if status.phase is SnapshotPhase.FAILED and status.message:
        return []
    return [f"{why}, and yet phase {status.phase.value} {status.message!r}"]


def _ready_reasons(world: World, active: ArtifactSet, eligible: list[str]) -> list[str]:
    reasons = []
    ready = sorted(
        one.node_name for one in active.artifacts or () if one.phase is ArtifactPhase.READY
    )
    if ready != eligible:
        reasons.append(f"ready on {ready}, eligible are {eligible}")
    for name in ready:
        is_lost = (name, active.snapshot_key) in world.lost
        if not is_lost and active.snapshot_key not in world.machines[name].artifacts:
            reasons.append(f"{active.snapshot_key} is not on {name}")
    return reasons


def _advertises(node: Node, providers: frozenset[str]) -> bool:
    return all(node.metadata.label(provider_label(name)) == "true" for name in providers)


def _is_eligible(node: Node, provider: str, selector: dict[str, str]) -> bool:
    """Simpler than production: this world has no affinity, tolerates no taint of its own."""
    labels = node.metadata.labels or {}
    wanted = {provider_label(provider): "true", **selector}
    return (
        all(labels.get(key) == value for key, value in wanted.items())
        and not node.spec.unschedulable
        and not any(taint.effect == "NoSchedule" for taint in node.spec.taints or ())
        and node.ready is not None
        and node.ready.status == "True"
    )


def is_forced(snapshot: SandboxSnapshot) -> bool:
    """The order to rebuild was not carried out."""
    return snapshot.metadata.annotation(FORCE_REBUILD) == "true"


def ready_and_current(world: World) -> list[tuple[str, str]]:
    """Snapshots that sessions of their template, as it is now, restore from."""
    found = []
    for one in world.truth.snapshots.all():
        meta = one.metadata
        is_ready = one.status is not None and one.status.phase is SnapshotPhase.READY
        stale = [c for c in (one.status.conditions if one.status else ()) if c.type == "Stale"]
        if is_ready and not any(condition.status == "True" for condition in stale):
            found.append((meta.namespace, meta.name))
    return found
