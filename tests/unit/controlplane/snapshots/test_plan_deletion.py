"""How a snapshot goes, how retired artifacts leave their nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.api import names
from controlplane.api.types import TaskOperation
from controlplane.errors import ConflictError, ForbiddenError, NotFoundError, RejectedError
from controlplane.kube.resource import TASKS
from controlplane.snapshots.observed import NoManifest
from controlplane.snapshots.plan import plan_snapshot
from controlplane.snapshots.steps import (
    ConfirmSnapshot,
    CreateTask,
    DeleteManifest,
    Plan,
    PutManifest,
    RemoveFinalizer,
)
from tests.fakes.snapshot_world import NAME, NAMESPACE, VERSION, World, make_ready_world, make_world


def _deleted(*nodes: str) -> World:
    world = make_ready_world(*nodes)
    world.delete_snapshot()
    return world


def test_retired_artifacts_leave_every_node_once_the_grace_time_is_over() -> None:
    """Defect 12."""
    world = make_ready_world("node-a", "node-b")
    old = world.active.snapshot_key
    world.edit_template("registry.example/picod:2")
    world.run_for(890)
    assert {key for _, key in world.agents.artifacts} == {old, world.active.snapshot_key}
    world.run_for(30)
    assert {key for _, key in world.agents.artifacts} == {world.active.snapshot_key}
    assert not world.manifest.retired_sets
    assert not world.tasks
    assert world.counts["physical_deletes", "deleted"] == 2


def test_a_node_deletes_one_artifact_at_a_time() -> None:
    world = make_ready_world("node-a")
    for number in range(3):
        world.edit_template(f"registry.example/picod:{number}")
        world.settle()
    world.agents.idle = {"node-a"}
    world.advance(1000)
    deletes = [task for task in world.tasks if task.spec.operation is TaskOperation.DELETE]
    assert len(deletes) == 1
    world.agents.idle = set()
    world.settle()
    assert not world.manifest.retired_sets
    assert len(world.agents.artifacts) == 1


def test_a_node_that_deletes_for_another_snapshot_is_left_alone() -> None:
    world = make_ready_world("node-a")
    world.edit_template("registry.example/picod:2")
    world.settle()
    world.agents.idle = {"node-a"}
    world.now = world.now.replace(year=2027)
    seen = world.observe()
    busy = replace(seen, busy_nodes=frozenset({"node-a"}))
    assert not [s for s in plan_snapshot(busy, world.now).steps if isinstance(s, CreateTask)]
    assert plan_snapshot(busy, world.now).requeue_at is not None
    assert [s for s in plan_snapshot(seen, world.now).steps if isinstance(s, CreateTask)]


def test_an_artifact_in_use_is_asked_for_again_later() -> None:
    world = make_ready_world("node-a")
    world.edit_template("registry.example/picod:2")
    world.agents.in_use = {"node-a"}
    world.run_for(3000)
    assert len(world.agents.artifacts) == 2
    assert world.counts["physical_deletes", "failed"] >= 2
    world.agents.in_use = set()
    world.run_for(400)
    assert len(world.agents.artifacts) == 1


@pytest.mark.parametrize("how", ["not-ready", "silent"])
def test_a_node_that_is_away_keeps_its_entry_until_it_is_back(how: str) -> None:
    world = make_ready_world("node-a", "node-b")
    if how == "silent":
        world.silent.add("node-b")
    else:
        world.set_ready("node-b", False)
    world.edit_template("registry.example/picod:2")
    world.run_for(5000)
    assert [one.node_names for one in world.manifest.retired_sets or ()] == [("node-b",)]
    world.silent.clear()
    world.set_ready("node-b", True)
    world.settle()
    assert not world.manifest.retired_sets
    assert {key for _, key in world.agents.artifacts} == {world.active.snapshot_key}


def test_a_removed_node_takes_its_retired_artifacts_along() -> None:
    world = make_ready_world("node-a", "node-b")
    world.edit_template("registry.example/picod:2")
    world.settle()
    world.remove_node("node-b")
    world.settle()
    assert [one.node_names for one in world.manifest.retired_sets or ()] == [("node-a",)]
    assert world.counts["physical_deletes", "node_removed"] == 1


def test_deletion_writes_its_tombstone_before_all_else() -> None:
    """Defect 43."""
    world = _deleted("node-a")
    first = world.plan().steps[0]
    assert isinstance(first, PutManifest)
    assert first.manifest.deleted_at == world.now
    assert (first.manifest.active, first.manifest.pending) == (None, None)
    assert len(first.manifest.retired_sets or ()) == 1


def test_deletion_leaves_nothing_behind() -> None:
    """Defect 44."""
    world = _deleted("node-a", "node-b")
    world.run_for(60)
    assert world.exists
    world.run_for(120)
    assert not world.exists
    assert not world.agents.artifacts
    assert not world.store.texts


def test_deletion_finds_build_sandboxes_without_a_task() -> None:
    """Defect 44."""
    world = make_world("node-a")
    world.agents.idle = {"node-a"}
    world.settle()
    for task in world.tasks:
        world.cluster.delete(TASKS, task.metadata.name, namespace=NAMESPACE)
    world.delete_snapshot()
    world.reconcile()
    assert not world.sandboxes


def test_deletion_finds_what_lost_its_owner_reference_by_its_label() -> None:
    """Defect 44."""
    world = make_world("node-a")
    world.agents.idle = {"node-a"}
    world.settle()
    (sandbox,) = world.sandboxes
    patch = {"metadata": {"ownerReferences": None}}
    world.cluster.merge(VERSION.sandboxes, sandbox.metadata.name, patch, namespace=NAMESPACE)
    world.delete_snapshot()
    world.reconcile()
    assert not world.sandboxes


def test_deletion_does_not_wait_longer_than_its_bound_for_a_node() -> None:
    world = _deleted("node-a", "node-b")
    world.silent.add("node-b")
    world.run_for(1750)
    assert world.exists
    world.run_for(100)
    assert not world.exists
    assert set(world.agents.artifacts) == {("node-b", next(iter(world.agents.artifacts))[1])}
    assert not world.store.texts


def test_one_node_whose_order_is_refused_is_asked_again_while_others_have_theirs() -> None:
    world = _deleted("node-a", "node-b")
    world.agents.idle = {"node-b"}
    world.client.fail_next("create", RejectedError("create tasks: not now"), resource=TASKS)
    world.run_for(150)
    assert world.exists
    assert {node for node, _ in world.agents.artifacts} == {"node-b"}
    world.agents.idle = set()
    world.run_for(60)
    assert not world.exists
    assert not world.agents.artifacts


def test_deletion_of_what_was_never_built_is_at_once() -> None:
    world = make_world()
    world.settle()
    world.delete_snapshot()
    world.run_for(5)
    assert not world.exists
    assert not world.store.texts


def test_deletion_does_not_believe_an_empty_read() -> None:
    world = _deleted("node-a")
    seen = world.observe()
    empty = replace(seen, stored=NoManifest.ABSENT)
    plan = plan_snapshot(empty, world.now)
    assert plan.steps[0] == ConfirmSnapshot(may_be_going=True)
    assert isinstance(plan.steps[1], PutManifest)
    assert plan.steps[1].version is None
    assert not [s for s in plan.steps if isinstance(s, DeleteManifest | RemoveFinalizer)]
    with pytest.raises(ConflictError):
        world.perform(plan, world.snapshot)
    assert world.agents.artifacts


def test_an_old_view_of_a_snapshot_that_is_gone_leaves_no_record() -> None:
    """Defect 43."""
    world = _deleted("node-a")
    seen = world.observe()
    world.run_for(3600)
    assert not world.exists
    plan = plan_snapshot(replace(seen, stored=NoManifest.ABSENT), world.now)
    with pytest.raises(NotFoundError):
        world.perform(plan, seen.snapshot)
    assert not world.store.texts


def test_deletion_with_an_unreadable_record_waits_for_its_bound() -> None:
    world = _deleted("node-a")
    world.store.texts[str(world.key)] = b"{"
    world.run_for(1700)
    assert world.exists
    world.run_for(200)
    assert not world.exists
    assert not world.store.texts


def test_deletion_in_a_namespace_that_goes_too_waits_for_nobody() -> None:
    world = _deleted("node-a")
    forbidden = ForbiddenError("create tasks: the namespace is being terminated")
    world.client.fail_next("create", forbidden, 100, resource=TASKS)
    world.run_for(130)
    assert not world.exists
    assert not world.store.texts


def test_a_snapshot_without_our_finalizer_is_let_go() -> None:
    world = make_ready_world("node-a")
    world.patch_snapshot({"metadata": {"finalizers": ["example.org/other"]}})
    world.delete_snapshot()
    assert world.plan() == Plan()


def test_a_foreign_finalizer_stays() -> None:
    world = make_ready_world("node-a")
    both = [names.SNAPSHOT_FINALIZER, "example.org/other"]
    world.patch_snapshot({"metadata": {"finalizers": both}})
    world.delete_snapshot()
    world.run_for(200)
    assert world.snapshot.metadata.finalizers == ("example.org/other",)


def test_an_old_view_of_a_snapshot_that_goes_brings_nothing_back() -> None:
    """Defect 43."""
    world = make_ready_world("node-a")
    seen = world.observe()
    world.delete_snapshot()
    world.reconcile()
    late = replace(seen, stored=world.observe().stored)
    plan = plan_snapshot(late, world.now)
    assert plan.steps == (ConfirmSnapshot(),)
    with pytest.raises(ConflictError):
        world.perform(plan, late.snapshot)


def test_an_old_view_of_a_snapshot_that_is_gone_writes_no_record() -> None:
    """Defect 43."""
    world = make_ready_world("node-a")
    seen = world.observe()
    world.delete_snapshot()
    world.run_for(200)
    assert not world.exists
    late = replace(seen, stored=NoManifest.ABSENT)
    plan = plan_snapshot(late, world.now)
    assert isinstance(plan.steps[0], ConfirmSnapshot)
    with pytest.raises(Exception, match="not found"):
        world.perform(plan, late.snapshot)
    assert not world.store.texts


def test_a_snapshot_made_again_under_its_name_shares_nothing() -> None:
    """Defects 29, 41."""
    world = make_ready_world("node-a")
    old = world.active.snapshot_key
    world.delete_snapshot()
    world.run_for(200)
    world.add_snapshot()
    world.settle()
    assert world.active.snapshot_key != old
    assert world.snapshot.metadata.name == NAME
