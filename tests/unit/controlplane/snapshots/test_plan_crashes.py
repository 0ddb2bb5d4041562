"""The planner survives a stop between any two of its steps, and writes that fail."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from controlplane.api import names
from controlplane.api.types import ArtifactPhase, SnapshotPhase
from controlplane.kube.resource import NODES
from controlplane.snapshots.policy import Policy
from tests.fakes.snapshot_world import World, make_ready_world, make_world
from tests.fakes.store import StoreFault

Life = Callable[[], World]


def _build() -> World:
    return make_world("node-a", "node-b")


def _source_change() -> World:
    world = make_ready_world("node-a", "node-b")
    world.edit_template("registry.example/picod:2")
    return world


def _force() -> World:
    world = make_ready_world("node-a", "node-b")
    world.force()
    return world


def _node_lost() -> World:
    world = make_ready_world("node-a", "node-b")
    world.remove_node("node-b")
    return world


def _node_replaced() -> World:
    world = make_ready_world("node-a", "node-b")
    world.remove_node("node-b")
    world.add_node("node-b")
    return world


def _node_back() -> World:
    world = make_ready_world("node-a", "node-b")
    world.set_ready("node-b", False)
    world.advance(61)
    world.set_ready("node-b", True)
    return world


def _failing() -> World:
    world = make_world("node-a", "node-b")
    world.agents.failures = {"node-a": ["disk full"], "node-b": ["x", "y"]}
    return world


def _deletion() -> World:
    world = make_ready_world("node-a", "node-b")
    world.delete_snapshot()
    return world


def _deletion_while_building() -> World:
    world = make_world("node-a", "node-b")
    world.agents.idle = {"node-a", "node-b"}
    world.settle()
    world.agents.idle = set()
    world.delete_snapshot()
    return world


LIVES: dict[str, Life] = {
    "build": _build,
    "source-change": _source_change,
    "force": _force,
    "node-lost": _node_lost,
    "node-replaced": _node_replaced,
    "node-back": _node_back,
    "failing": _failing,
    "deletion": _deletion,
    "deletion-while-building": _deletion_while_building,
}


def check_invariants(world: World) -> None:
    """What holds after each step, whatever happened."""
    if not world.exists or world.snapshot.metadata.is_terminating:
        return
    status = world.snapshot.status
    if status is not None:
        counts = world.counts_of_nodes
        assert sum(counts) == status.target_node_count
        assert len(status.message.encode()) <= 1024
        assert status.phase is not SnapshotPhase.READY or status.ready_node_count > 0
    stored = world.store.get(world.key)
    if stored is not None:
        _check_reachable(world)


def _check_reachable(world: World) -> None:
    """Each artifact on a node is named by the manifest, so that somebody will delete it."""
    manifest = world.manifest
    known = {
        (artifact.node_name, key)
        for key, one in (manifest.artifact_sets or {}).items()
        for artifact in one.artifacts or ()
    }
    for retired in manifest.retired_sets or ():
        known |= {(name, retired.snapshot_key) for name in retired.node_names or ()}
    assert set(world.agents.artifacts) <= known


def check_outcome(world: World) -> None:
    """Where every life ends once time has passed."""
    world.run_for(5000)
    if not world.exists:
        assert not world.store.texts
        assert not world.agents.artifacts
        assert not world.tasks
        assert not world.sandboxes
        return
    nodes = {body["metadata"]["name"] for body in world.cluster.objects(NODES)}
    assert world.phase is SnapshotPhase.READY
    assert world.status.ready_node_count == world.status.target_node_count == len(nodes)
    assert world.manifest.pending is None
    assert not world.manifest.retired_sets
    key = world.active.snapshot_key
    assert set(world.agents.artifacts) == {(name, key) for name in nodes}
    assert not world.tasks
    assert not world.sandboxes
    assert not world.snapshot.metadata.annotation(names.FORCE_REBUILD)
    assert all(one.phase is ArtifactPhase.READY for one in world.active.artifacts or ())


def _run_with_stop_at(make: Life, stop: int) -> bool:
    """Stop once after so many steps in all. Returns: whether the life was that long."""
    world = make()
    done, is_stopped, end = 0, False, world.now + timedelta(seconds=3000)
    while world.exists and world.now < end:
        plan, snapshot = world.plan(), world.snapshot
        most = None if is_stopped else stop - done
        done += world.perform(plan, snapshot, most)
        if not is_stopped and done >= stop:
            is_stopped = True
        check_invariants(world)
        is_moved = world.run_agents()
        if not plan.steps and not is_moved:
            world.now = max(plan.requeue_at or end, world.now + timedelta(seconds=1))
    check_outcome(world)
    return is_stopped


@pytest.mark.parametrize("life", LIVES)
def test_a_stop_after_any_number_of_steps_changes_nothing_in_the_end(life: str) -> None:
    """Defects 30, 43, 44."""
    stop = 1
    while _run_with_stop_at(LIVES[life], stop):
        stop += 1
    assert stop > 3


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("fault", [StoreFault.CONFLICT, StoreFault.LOST_REPLY])
@pytest.mark.parametrize("nth", [0, 1, 2])
def test_a_put_that_fails_or_seems_to_is_decided_again(
    life: str, fault: StoreFault, nth: int
) -> None:
    world = LIVES[life]()
    for _ in range(nth):
        world.reconcile()
        world.run_agents()
    world.store.fail_next("put", fault)
    world.reconcile()
    check_invariants(world)
    world.store.fail_next("put")
    check_outcome(world)


@pytest.mark.parametrize("life", LIVES)
def test_every_life_comes_to_rest(life: str) -> None:
    check_outcome(LIVES[life]())


@pytest.mark.parametrize("life", ["build", "source-change", "node-back", "force"])
def test_a_world_at_rest_is_written_to_no_more_for_a_day(life: str) -> None:
    world = LIVES[life]()
    check_outcome(world)
    writes = (world.client.writes, world.store.writes, len(world.events))
    looks = world.run_for(86_400)
    assert looks == 86_400 / Policy().recheck_store_s  # at the store, for what it lost
    assert (world.client.writes, world.store.writes, len(world.events)) == writes


def test_a_record_that_the_store_lost_is_noticed_without_any_event() -> None:
    world = make_ready_world("node-a")
    lost = world.manifest.active
    assert lost is not None
    world.store.delete(world.key)
    world.run_for(2 * Policy().recheck_store_s)
    found = world.manifest.active
    assert found is not None
    assert found.snapshot_key != lost.snapshot_key
    assert world.status.phase is SnapshotPhase.READY
