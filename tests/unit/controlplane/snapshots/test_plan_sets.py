"""Which set serves, which is built, which goes: each transition of a set."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from controlplane.api import names
from controlplane.api.manifest import ArtifactSet, SetReason, SetReference
from controlplane.api.types import ArtifactPhase, SnapshotPhase
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.steps import PutManifest, RemoveForceRebuild
from tests.fakes.snapshot_world import World, make_ready_world, make_world

NODES = ("node-a", "node-b", "node-c")


def _put(world: World, **changes: object) -> None:
    """Change the stored manifest behind the planner's back."""
    stored = world.store.get(world.key)
    assert stored is not None
    world.store.put(world.key, replace(stored.manifest, **changes), stored.version)


def test_the_first_set_is_promoted_with_its_first_artifact() -> None:
    world = make_world(*NODES)
    world.agents.idle = {"node-b", "node-c"}
    world.settle()
    assert world.active.reason is SetReason.INITIAL
    assert world.manifest.rebuild_seq == 1
    assert world.counts_of_nodes == (2, 1, 0, 0)


def test_a_changed_source_retires_the_active_set_in_one_put_before_any_task() -> None:
    world = make_ready_world("node-a")
    old = world.active.snapshot_key
    world.edit_template("registry.example/picod:2")
    plan = world.plan()
    assert isinstance(plan.steps[0], PutManifest)
    manifest = plan.steps[0].manifest
    assert manifest.active is None
    assert manifest.pending is not None
    assert manifest.pending.reason is SetReason.SOURCE_CHANGE
    assert [one.snapshot_key for one in manifest.retired_sets or ()] == [old]


def test_a_pending_set_of_an_older_source_is_dropped_not_promoted() -> None:
    """Defect 36."""
    world = make_world("node-a")
    world.agents.idle = {"node-a"}
    world.settle()
    old = world.pending.snapshot_key
    for task in world.tasks:
        world.report(task.metadata.name, ArtifactPhase.READY)
    world.edit_template("registry.example/picod:2")
    world.reconcile()
    assert world.manifest.active is None
    assert world.pending.snapshot_key != old
    assert old in {one.snapshot_key for one in world.manifest.retired_sets or ()}


def test_a_superseded_task_is_cancelled_at_once() -> None:
    world = make_world("node-a")
    world.agents.idle = {"node-a"}
    world.settle()
    old = world.pending.snapshot_key
    world.edit_template("registry.example/picod:2")
    world.settle()
    assert {task.spec.snapshot_key for task in world.tasks} == {world.pending.snapshot_key}
    assert old not in {task.spec.snapshot_key for task in world.tasks}
    assert len(world.sandboxes) == 1


def test_rebuild_after_replaces_once_in_a_period() -> None:
    """Defects 25, 26: readyAt is rewritten also when the counts stay; the planner wakes itself."""
    policy = Policy(recheck_store_s=7200)
    world = make_ready_world("node-a", policy=policy, forkPolicy={"rebuildAfter": "1h"})
    first = world.active.snapshot_key
    assert world.settle().requeue_at == world.active.promoted_at + timedelta(hours=1)  # type: ignore[operator]
    world.run_for(3600)
    second = world.active.snapshot_key
    assert second != first
    assert world.status.ready_at == world.active.promoted_at
    world.run_for(3500)
    assert world.active.snapshot_key == second
    assert world.manifest.rebuild_seq == 2
    world.run_for(24 * 3600 - 3500)
    assert world.manifest.rebuild_seq == 26


def test_a_replacement_is_built_while_the_active_set_serves() -> None:
    world = make_ready_world(*NODES, forkPolicy={"rebuildAfter": "1h"})
    world.agents.idle = set(NODES)
    world.run_for(3600)
    assert world.phase is SnapshotPhase.READY
    assert world.counts_of_nodes == (0, 3, 0, 0)
    assert world.condition("Rebuilding") == "True"
    assert world.pending.reason is SetReason.REBUILD_AFTER
    assert world.reasons() == ["SandboxSnapshotRebuilding"]
    world.agents.idle = set()
    world.settle()
    assert world.reasons() == ["SandboxSnapshotRebuilding", "SandboxSnapshotPromoted"]
    assert world.condition("Rebuilding") == "False"
    assert world.counts["rebuilds", "rebuild_after"] == 1


def test_a_replacement_waits_for_as_many_nodes_as_serve() -> None:
    """Defect 40: promotion does not collapse coverage."""
    world = make_ready_world(*NODES, forkPolicy={"rebuildAfter": "1h"})
    old = world.active.snapshot_key
    world.agents.idle = {"node-c"}
    world.run_for(3600)
    assert world.active.snapshot_key == old
    world.run_for(500)
    assert world.active.snapshot_key == old
    world.run_for(200)  # ten minutes after the first Ready one
    assert world.active.snapshot_key != old
    assert world.counts_of_nodes == (1, 2, 0, 0)


def test_a_replacement_takes_over_when_its_last_node_failed_for_good() -> None:
    world = make_ready_world(*NODES, forkPolicy={"rebuildAfter": "1h"})
    old = world.active.snapshot_key
    world.agents.failures["node-c"] = ["a", "b", "c", "d"]
    world.run_for(3541)  # an hour after the first promotion
    assert world.active.snapshot_key == old
    world.run_for(60)
    assert world.active.snapshot_key != old
    assert world.counts_of_nodes == (0, 2, 1, 0)
    assert world.condition("Degraded") == "True"


def test_a_replacement_that_fails_everywhere_leaves_and_another_is_tried() -> None:
    """Defect 37."""
    world = make_ready_world("node-a", forkPolicy={"rebuildAfter": "1h"})
    old = world.active.snapshot_key
    world.agents.failures["node-a"] = ["a", "b", "c"]
    world.run_for(3700)
    assert world.active.snapshot_key == old
    assert world.manifest.pending is None
    assert world.phase is SnapshotPhase.READY
    assert "SandboxSnapshotRebuildFailed" in world.reasons()
    world.run_for(1900)
    assert world.active.snapshot_key != old


def test_a_replacement_without_any_artifact_is_given_up_at_its_deadline() -> None:
    world = make_ready_world(
        "node-a", policy=Policy(pending_s=500), forkPolicy={"rebuildAfter": "1h"}
    )
    world.agents.idle = {"node-a"}
    world.run_for(3650)
    assert world.manifest.pending is not None
    world.run_for(500)
    assert world.manifest.pending is None
    assert world.manifest.next_rebuild_at is not None


def test_force_builds_beside_the_active_set_and_ends_with_its_promotion() -> None:
    world = make_ready_world("node-a")
    old = world.active.snapshot_key
    world.agents.idle = {"node-a"}
    world.force()
    world.settle()
    assert world.active.snapshot_key == old
    assert world.pending.reason is SetReason.FORCE
    assert world.snapshot.metadata.annotation(names.FORCE_REBUILD) == "true"
    world.agents.idle = set()
    world.settle()
    assert world.active.snapshot_key != old
    assert not world.snapshot.metadata.annotation(names.FORCE_REBUILD)
    assert world.manifest.rebuild_seq == 2
    removed = [isinstance(step, RemoveForceRebuild) for step in world.steps]
    assert sum(removed) == 1


def test_force_that_is_not_true_means_nothing() -> None:
    world = make_ready_world("node-a")
    world.patch_snapshot({"metadata": {"annotations": {names.FORCE_REBUILD: "false"}}})
    assert world.plan().steps == ()


def test_a_stale_set_serves_on_if_it_is_not_to_be_rebuilt() -> None:
    world = make_ready_world("node-a", "node-b", forkPolicy={"rebuildOnSourceChange": False})
    key = world.active.snapshot_key
    world.edit_template("registry.example/picod:2")
    world.settle()
    assert world.active.snapshot_key == key
    assert (world.phase, world.condition("Stale")) == (SnapshotPhase.READY, "True")
    assert world.reasons() == ["SandboxSnapshotStale"]
    world.add_node("node-c")  # cannot be built from what the source was
    world.settle()
    assert world.status.target_node_count == 2
    world.edit_template("registry.example/picod@sha256:" + "ab" * 32)
    world.settle()
    assert world.condition("Stale") == "False"
    assert world.counts_of_nodes == (0, 3, 0, 0)


def test_a_stale_set_is_replaced_by_age_from_the_source_as_it_is() -> None:
    world = make_ready_world(
        "node-a", forkPolicy={"rebuildOnSourceChange": False, "rebuildAfter": "1h"}
    )
    key = world.active.snapshot_key
    world.edit_template("registry.example/picod:2")
    world.run_for(3600)
    assert world.active.snapshot_key != key
    assert world.condition("Stale") == "False"


def test_a_stale_set_that_nobody_can_use_is_replaced() -> None:
    world = make_ready_world("node-a", forkPolicy={"rebuildOnSourceChange": False})
    world.edit_template("registry.example/picod:2")
    world.settle()
    world.remove_node("node-a")
    world.add_node("node-b")
    world.settle()
    assert world.phase is SnapshotPhase.READY
    assert world.active.reason is SetReason.INVALIDATED


@pytest.mark.parametrize("which", ["active_set_ref", "pending_set_ref"])
def test_a_dangling_reference_is_repaired_and_told(which: str) -> None:
    """Defects 15, 38."""
    world = make_ready_world("node-a")
    changes: dict[str, object] = {which: SetReference(snapshot_key="gone")}
    if which == "active_set_ref":
        changes["artifact_sets"] = None
    _put(world, **changes)
    world.settle()
    assert world.phase is SnapshotPhase.READY
    assert "SandboxSnapshotRepaired" in world.reasons()
    assert world.manifest.pending is None


def test_a_set_that_nobody_refers_to_is_retired() -> None:
    world = make_ready_world("node-a")
    active = world.active
    artifacts = tuple(replace(one, snapshot_key="stray") for one in active.artifacts or ())
    stray = ArtifactSet(
        snapshot_key="stray", snapshot_hash=active.snapshot_hash, artifacts=artifacts
    )
    world.agents.artifacts["node-a", "stray"] = active.snapshot_hash
    _put(world, artifact_sets={**(world.manifest.artifact_sets or {}), "stray": stray})
    world.settle()
    assert [one.snapshot_key for one in world.manifest.retired_sets or ()] == ["stray"]
    world.run_for(1000)
    assert ("node-a", "stray") not in world.agents.artifacts
    assert world.active.snapshot_key == active.snapshot_key


def test_both_sets_take_in_what_their_tasks_report() -> None:
    """Defect 39."""
    world = make_ready_world("node-a", "node-b")
    world.agents.idle = {"node-a", "node-b"}
    world.force()
    world.settle()
    world.add_node("node-c")
    world.settle()
    nodes = [one.node_name for one in world.active.artifacts or ()]
    assert nodes == ["node-a", "node-b", "node-c"]
    world.remove_node("node-b")
    world.settle()
    for one in (world.active, world.pending):
        assert [a.node_name for a in one.artifacts or ()] == ["node-a", "node-c"]


def test_every_new_set_has_a_key_of_its_own() -> None:
    """Defect 29."""
    world = make_ready_world("node-a")
    keys = {world.active.snapshot_key}
    for number in range(3):
        world.edit_template(f"registry.example/picod:{number}")
        world.settle()
        keys.add(world.active.snapshot_key)
    assert len(keys) == 4


def test_a_rebuild_is_built_from_a_new_sandbox() -> None:
    """Defect 27: never from the one of the version before."""
    world = make_world("node-a")
    world.agents.idle = {"node-a"}
    world.settle()
    before = {one.metadata.name for one in world.sandboxes}
    world.edit_template("registry.example/picod:2")
    world.settle()
    after = {one.metadata.name for one in world.sandboxes}
    assert not before & after
    image = world.sandboxes[0].spec.pod_template.spec["containers"][0]["image"]
    assert image == "registry.example/picod:2"
