"""Whatever part is killed while a session starts: the session starts."""

from __future__ import annotations

import pytest

from agentd.errors import PeerError
from bench.cluster import sessions, snapshot
from bench.cluster.observer import Observer
from bench.cluster.world import World
from controlplane.sessions.decision import StartReason
from tests.integration.cluster.parts import (
    PARTS,
    Part,
    end_session,
    expect_restored,
    make_ready,
    only_node,
    use_session,
)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.vm,
    pytest.mark.restarts,
    pytest.mark.timeout(300),
]

CONTROL_PLANE, AGENTD, REDIS, API_SERVER = PARTS


@pytest.fixture(autouse=True)
def is_ready(world: World, observer: Observer) -> None:
    """Each test begins with a set that serves sessions."""
    make_ready(world)


def test_without_a_control_plane_a_session_starts_cold(world: World) -> None:
    CONTROL_PLANE.kill(world)
    session = use_session(world)
    assert (session.restored, session.key, session.reason) == (False, "", "no_intent")
    CONTROL_PLANE.restart(world)
    expect_restored(world)


def test_without_a_store_a_session_starts_cold_before_an_api_server_loses_patience(
    world: World,
) -> None:
    REDIS.kill(world)
    session = use_session(world)
    assert (session.restored, session.key) == (False, "")
    # Were the webhook too late, nobody could say why.
    assert session.reason in (StartReason.STORE_ERROR, StartReason.STORE_TIMEOUT)
    REDIS.restart(world)
    expect_restored(world)
    status = snapshot.status_of(world)
    assert status is not None
    assert snapshot.is_whole(status)


@pytest.mark.parametrize("part", [AGENTD, API_SERVER], ids=lambda part: part.name)
def test_a_session_that_was_asked_for_outlives_the_death_of(part: Part, world: World) -> None:
    begun = sessions.begin(world, snapshot.NAME)
    wait_bound(world, begun.name)
    part.kill(world)
    part.restart(world)
    session = sessions.finish(world, begun)
    assert session.reply.session_id in only_node(world).machines()
    assert len(only_node(world).machines()) == 1
    end_session(world, session.name)
    expect_restored(world)


def test_a_session_that_runs_outlives_the_death_of_everything(world: World) -> None:
    begun = sessions.begin(world, snapshot.NAME)
    session = sessions.finish(world, begun)
    machines = only_node(world).machines()
    for part in PARTS:
        part.kill(world)
    assert only_node(world).machines() == machines
    for part in (API_SERVER, REDIS, AGENTD, CONTROL_PLANE):
        part.restart(world)
    sandbox = world.observer.sandboxes[(sessions.NAMESPACE, session.name)]
    address = sessions.address_of(world, sandbox)
    world.observer.wait("the agent back", lambda: answers(address), deadline_s=60)
    assert sessions.ask(address) == session.reply
    assert only_node(world).machines() == machines
    end_session(world, session.name)


def wait_bound(world: World, name: str) -> None:
    """Its Pod has a node, whose agent begins to start it now."""

    def is_bound() -> bool:
        pod = world.observer.pods.get((sessions.NAMESPACE, name))
        return pod is not None and bool(pod.spec.node_name)

    world.observer.wait(f"Pod {name} bound", is_bound, deadline_s=90)


def answers(address: str) -> bool:
    """Somebody listens there, and a guest behind."""
    try:
        return bool(sessions.ask(address))
    except PeerError:
        return False
