"""What becomes of artifacts when their nodes change."""

from __future__ import annotations

import pytest

from controlplane.api import names
from controlplane.api.types import ArtifactPhase, SnapshotPhase, TaskOperation
from controlplane.errors import RejectedError
from controlplane.kube.resource import TASKS
from tests.fakes.snapshot_world import (
    NAMESPACE,
    PROVIDER,
    VERSION,
    World,
    make_ready_world,
    make_world,
)

LABEL = names.provider_label(PROVIDER)
READY, UNAVAILABLE = ArtifactPhase.READY, ArtifactPhase.UNAVAILABLE


def _cordon(world: World) -> None:
    world.patch_node("node-b", {"unschedulable": True})


def _uncordon(world: World) -> None:
    world.patch_node("node-b", {"unschedulable": None})


def _taint(world: World) -> None:
    world.patch_node("node-b", {"taints": [{"key": "x", "value": "", "effect": "NoSchedule"}]})


def _untaint(world: World) -> None:
    world.patch_node("node-b", {"taints": None})


OUTAGES = {
    "label-lost": (
        lambda world: world.label_node("node-b", {LABEL: None}),
        lambda world: world.label_node("node-b", {LABEL: "true"}),
    ),
    "cordoned": (_cordon, _uncordon),
    "tainted": (_taint, _untaint),
    "agent-silent": (
        lambda world: world.silent.add("node-b"),
        lambda world: world.silent.discard("node-b"),
    ),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_artifact_on_a_node_that_stops_matching_is_unavailable_until_inspected(
    outage: str,
) -> None:
    """Defect 35."""
    lose, regain = OUTAGES[outage]
    world = make_ready_world("node-a", "node-b")
    lose(world)
    world.settle()
    assert world.counts_of_nodes == (0, 1, 0, 1)
    assert world.reasons() == ["SandboxSnapshotDegraded"]
    assert world.artifact("node-b").message
    world.agents.idle = {"node-b"}
    regain(world)
    world.settle()
    assert world.counts_of_nodes == (0, 1, 0, 1)
    assert [task.spec.operation for task in world.tasks] == [TaskOperation.INSPECT]
    world.agents.idle = set()
    world.settle()
    assert world.counts_of_nodes == (0, 2, 0, 0)
    assert world.agents.creates["node-b", world.active.snapshot_key] == 1
    world.advance(61)
    assert not world.tasks


def test_a_node_may_be_away_for_a_minute() -> None:
    world = make_ready_world("node-a", "node-b")
    world.set_ready("node-b", False)
    plan = world.settle()
    assert world.counts_of_nodes == (0, 2, 0, 0)
    assert plan.requeue_at is not None
    assert (plan.requeue_at - world.now).total_seconds() <= 60
    world.advance(59)
    assert world.counts_of_nodes == (0, 2, 0, 0)
    world.advance(2)
    assert world.counts_of_nodes == (0, 1, 0, 1)
    assert world.condition("Degraded") == "True"


def test_a_flap_with_the_taints_that_follow_it_changes_nothing() -> None:
    world = make_ready_world("node-a")
    world.set_ready("node-a", False)
    taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    world.patch_node("node-a", {"taints": [taint]})
    world.advance(30)
    world.set_ready("node-a", True)
    world.advance(1)
    assert world.counts_of_nodes == (0, 1, 0, 0)
    world.patch_node("node-a", {"taints": None})
    world.settle()
    assert not world.events


def test_a_silent_agent_matters_only_to_what_it_alone_restores() -> None:
    world = World()
    world.add_node("node-a", provider="snapstart.kuasar.io")
    marks = {names.KUASAR_READY_VERSION: "1"}
    world.add_class(providerName="snapstart.kuasar.io", buildPodAnnotations=marks)
    world.add_template()
    world.add_snapshot()
    world.settle()
    world.silent.add("node-a")
    world.run_for(4000)
    assert world.counts_of_nodes == (0, 1, 0, 0)


def test_an_artifact_that_is_missing_after_an_outage_is_built_again() -> None:
    world = make_ready_world("node-a", "node-b")
    world.set_ready("node-b", False)
    world.advance(61)
    del world.agents.artifacts["node-b", world.active.snapshot_key]
    world.set_ready("node-b", True)
    world.settle()
    assert world.counts_of_nodes == (0, 2, 0, 0)
    assert world.agents.creates["node-b", world.active.snapshot_key] == 2


def test_an_answer_from_before_an_outage_does_not_count() -> None:
    world = make_ready_world("node-a", "node-b")
    world.set_ready("node-b", False)
    world.advance(61)
    world.agents.idle = {"node-b"}
    world.set_ready("node-b", True)
    world.settle()
    (task,) = world.tasks
    world.report(task.metadata.name, READY)  # just before the node is lost once more
    world.label_node("node-b", {LABEL: None})
    world.settle()
    assert not world.tasks
    assert world.artifact("node-b").phase is UNAVAILABLE
    del world.agents.artifacts["node-b", world.active.snapshot_key]
    world.agents.idle = set()
    world.label_node("node-b", {LABEL: "true"})
    world.settle()
    assert world.agents.creates["node-b", world.active.snapshot_key] == 2


def test_a_removed_node_takes_its_record_along() -> None:
    world = make_ready_world("node-a", "node-b")
    world.remove_node("node-b")
    world.settle()
    assert world.counts_of_nodes == (0, 1, 0, 0)
    assert world.counts["records_removed", "node_removed"] == 1


def test_a_record_outlives_its_node_until_its_orders_are_gone() -> None:
    """Defect 30: what could still act is known of."""
    world = make_world("node-a", "node-b")
    world.agents.idle = {"node-b"}
    world.settle()
    world.remove_node("node-b")
    world.reconcile()
    assert world.artifact("node-b").phase is UNAVAILABLE
    world.settle()
    assert not [task for task in world.tasks if task.spec.target_node_name == "node-b"]
    assert world.status.target_node_count == 1


def test_a_node_that_comes_back_as_another_machine_is_built_anew() -> None:
    world = make_ready_world("node-a", "node-b")
    uid = world.artifact("node-b").node_uid
    world.remove_node("node-b")
    world.add_node("node-b")
    world.settle()
    artifact = world.artifact("node-b")
    assert artifact.node_uid != uid
    assert (artifact.phase, artifact.attempt) == (READY, 2)
    assert world.agents.creates["node-b", artifact.snapshot_key] == 2


def test_a_finished_task_of_the_old_machine_is_not_taken_for_the_new_ones() -> None:
    world = make_world("node-a", "node-b")
    world.settle()
    assert world.tasks  # finished, kept for a minute
    world.remove_node("node-b")
    world.add_node("node-b")
    world.agents.idle = {"node-b"}
    world.settle()
    assert world.artifact("node-b").phase is ArtifactPhase.CREATING


def test_a_new_node_is_built_in_the_background() -> None:
    world = make_ready_world("node-a")
    world.add_node("node-b")
    world.agents.idle = {"node-b"}
    world.settle()
    assert world.phase is SnapshotPhase.READY
    assert world.counts_of_nodes == (1, 1, 0, 0)
    world.agents.idle = set()
    world.settle()
    assert world.counts_of_nodes == (0, 2, 0, 0)


def test_one_node_that_fails_is_retried_while_the_others_serve() -> None:
    """Defects 31, 45."""
    world = make_world("node-a", "node-b")
    world.agents.failures["node-b"] = ["disk full"]
    world.settle()
    assert (world.phase, world.counts_of_nodes) == (SnapshotPhase.READY, (0, 1, 1, 0))
    assert world.status.message == "node-b: disk full"
    world.run_for(15)
    assert world.counts_of_nodes == (0, 2, 0, 0)


def test_one_node_whose_build_is_refused_keeps_no_other_waiting() -> None:
    """Defect 45."""
    world = make_world("node-a", "node-b")
    refusal = RejectedError("create sandboxes: node-a is not wanted")
    world.client.fail_next("create", refusal, resource=VERSION.sandboxes)
    world.settle()
    assert world.counts_of_nodes == (0, 1, 1, 0)
    assert world.status.message == "node-a: create sandboxes: node-a is not wanted"
    world.run_for(15)
    assert world.counts_of_nodes == (0, 2, 0, 0)


def test_a_build_that_nobody_does_ends_at_its_deadline() -> None:
    """Defect 32."""
    world = make_world("node-a")
    world.agents.idle = {"node-a"}
    world.run_for(890)
    assert world.counts_of_nodes == (1, 0, 0, 0)
    world.advance(11)
    assert world.counts_of_nodes == (0, 0, 1, 0)
    assert "not done within 900 s" in world.status.message
    assert not [task for task in world.tasks if task.status is None]


def test_a_build_whose_pod_failed_ends_at_once() -> None:
    world = make_world("node-a")
    world.agents.idle = {"node-a"}
    world.settle()
    (sandbox,) = world.sandboxes
    condition = {"type": "Finished", "status": "True", "reason": "PodFailed", "message": "OutOfcpu"}
    world.cluster.merge(
        VERSION.sandboxes,
        sandbox.metadata.name,
        {"status": {"conditions": [condition]}},
        namespace=NAMESPACE,
        subresource="status",
    )
    world.settle()
    assert world.counts_of_nodes == (0, 0, 1, 0)
    assert world.status.message == "node-a: its Pod ended: PodFailed OutOfcpu"
    world.settle()
    assert not world.sandboxes


def test_no_build_starts_on_a_node_that_is_not_ready() -> None:
    world = make_world("node-a", "node-b")
    world.set_ready("node-b", False)
    world.settle()
    assert world.status.target_node_count == 1


@pytest.mark.parametrize(
    "change",
    [
        {"snapshotUID": "another"},
        {"snapshotKey": "another"},
        {"snapshotHash": "sha256:another"},
        {"providerName": "another"},
        {"targetNodeName": "node-z"},
    ],
    ids=["uid", "key", "hash", "provider", "node"],
)
def test_a_task_that_says_something_else_is_not_believed(change: dict[str, str]) -> None:
    """Defect 41."""
    world = make_world("node-a")
    world.agents.idle = {"node-a", "node-z"}
    world.settle()
    (task,) = world.tasks
    body = world.cluster.get(TASKS, task.metadata.name, NAMESPACE)
    world.cluster.delete(TASKS, task.metadata.name, namespace=NAMESPACE)
    forged = {**body, "spec": {**body["spec"], **change}}
    world.cluster.create(TASKS, forged)
    world.report(task.metadata.name, READY)
    world.settle()
    assert world.artifact("node-a").phase is ArtifactPhase.CREATING
    (again,) = world.tasks
    assert again.spec.snapshot_hash == world.pending.snapshot_hash
    assert again.status is None or again.status.phase is None


def test_an_impostor_of_a_build_sandbox_is_removed_and_waited_for() -> None:
    """Defect 27."""
    world = make_world("node-a")
    world.agents.idle = {"node-a"}
    world.settle()
    (sandbox,) = world.sandboxes
    body = world.cluster.get(VERSION.sandboxes, sandbox.metadata.name, NAMESPACE)
    world.cluster.delete(VERSION.sandboxes, sandbox.metadata.name, namespace=NAMESPACE)
    body["metadata"]["annotations"][names.SNAPSHOT_HASH] = "sha256:another"
    body["metadata"]["finalizers"] = ["example.org/slow"]
    world.cluster.create(VERSION.sandboxes, body)
    world.settle()
    (left,) = world.sandboxes
    assert left.metadata.is_terminating
    patch = {"metadata": {"finalizers": None}}
    world.cluster.merge(VERSION.sandboxes, sandbox.metadata.name, patch, namespace=NAMESPACE)
    world.settle()
    (made,) = world.sandboxes
    assert made.metadata.annotation(names.SNAPSHOT_HASH) == world.pending.snapshot_hash


def test_a_finished_task_stays_a_minute_its_sandbox_does_not() -> None:
    """Defect 14."""
    world = make_world("node-a")
    world.settle()
    assert (len(world.tasks), len(world.sandboxes)) == (1, 0)
    plan = world.settle()
    assert plan.requeue_at is not None
    world.advance(61)
    assert not world.tasks


def test_nothing_is_cleaned_up_before_its_result_is_stored() -> None:
    world = make_world("node-a")
    world.reconcile()
    world.reconcile()
    world.run_agents()
    plan = world.plan()
    kinds = [type(step).__name__ for step in plan.steps]
    assert kinds[0] == "PutManifest"
    assert "DeleteSandbox" not in kinds
    assert "DeleteTask" not in kinds


def test_another_machine_is_not_asked_for_what_the_old_one_was_building() -> None:
    """A set that no longer can be built is not waited for on a machine that never knew of it."""
    world = make_world("node-a", "node-b", forkPolicy={"rebuildOnSourceChange": False})
    world.agents.idle = {"node-b"}
    world.settle()
    world.edit_template("registry.example/picod:2")
    world.remove_node("node-b")
    world.add_node("node-b")
    world.agents.idle = set()
    world.run_for(200)
    assert not world.tasks
    assert [one.node_name for one in world.active.artifacts or ()] == ["node-a"]
