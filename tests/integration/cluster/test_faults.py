"""Whatever part is killed while a set is built, or takes over: the build ends well, once."""

from __future__ import annotations

import pytest

from bench.cluster import snapshot
from bench.cluster.observer import Observer
from bench.cluster.world import World
from controlplane.api.types import ArtifactPhase
from tests.integration.cluster.parts import (
    PARTS,
    Part,
    assert_at_rest,
    begin_rebuild,
    expect_restored,
    make_ready,
    only_node,
    wait_for_machine,
    wait_for_task,
)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.vm,
    pytest.mark.restarts,
    pytest.mark.timeout(420),
]

each_part = pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)


@pytest.fixture(autouse=True)
def is_ready(world: World, observer: Observer) -> None:
    """Each test begins and ends with one set that serves sessions."""
    make_ready(world)


@each_part
def test_a_build_survives_the_death_of(part: Part, world: World) -> None:
    wait_until_rebuilt = begin_rebuild(world)
    wait_for_machine(world)
    part.kill(world)
    part.restart(world)
    wait_until_rebuilt()
    expect_restored(world)
    assert_at_rest(world)


@each_part
def test_a_promotion_survives_the_death_of(part: Part, world: World) -> None:
    wait_until_rebuilt = begin_rebuild(world)
    wait_for_task(world, ArtifactPhase.CREATING)
    wait_for_task(world, ArtifactPhase.READY)
    part.kill(world)
    part.restart(world)
    wait_until_rebuilt()
    expect_restored(world)
    assert_at_rest(world)


def test_a_node_whose_agent_is_away_is_lost_then_found(world: World, observer: Observer) -> None:
    node = only_node(world)
    node.stop()

    def is_lost() -> bool:
        condition = observer.nodes[("", node.name)].ready
        return condition is not None and condition.status == "Unknown"

    observer.wait("the Node not ready", is_lost, deadline_s=90)
    gone = snapshot.wait_status(
        world, "its artifact unavailable", lambda status: status.unavailable_node_count == 1
    )
    assert (gone.target_node_count, gone.ready_node_count) == (1, 0)
    assert gone.phase.value != "Ready"
    node.start()
    snapshot.wait_status(world, "the snapshot Ready", snapshot.is_whole)
    expect_restored(world)
