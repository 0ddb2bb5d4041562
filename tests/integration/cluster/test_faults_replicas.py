"""Of two control planes one writes, whatever becomes of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.cluster.control import ControlPlane
from bench.cluster.observer import Observer
from bench.cluster.world import World
from controlplane.sessions.certificates import SERVING_LIFE
from tests.integration.cluster.parts import (
    assert_at_rest,
    begin_rebuild,
    expect_restored,
    make_ready,
    wait_for_machine,
)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.vm,
    pytest.mark.restarts,
    pytest.mark.timeout(300),
]

LOOK_S = 0.1


@pytest.fixture(scope="module")
def replicas(world: World) -> list[ControlPlane]:
    """Two of them."""
    world.add_replica()
    return world.replicas


@pytest.fixture(autouse=True)
def is_ready(world: World, observer: Observer) -> None:
    """Each test begins with a set that serves sessions."""
    make_ready(world)


def leaders(replicas: list[ControlPlane]) -> list[ControlPlane]:
    """Those that say that they lead."""
    return [one for one in replicas if one.server.is_running and one.is_leader()]


@contextmanager
def most_leaders(replicas: list[ControlPlane]) -> Iterator[list[int]]:
    """How many led at once, looked at again and again while inside."""
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_S):
            seen.append(len(leaders(replicas)))

    thread = threading.Thread(target=look, name="leaders")
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def wait_for_leader(world: World, replicas: list[ControlPlane]) -> ControlPlane:
    """The one that leads."""
    found: list[ControlPlane] = []

    def is_one() -> bool:
        found[:] = leaders(replicas)
        return len(found) == 1

    world.cluster.wait_for("one leader", is_one, deadline_s=90)
    return found[0]


def test_each_replica_tells_when_its_certificate_ends(replicas: list[ControlPlane]) -> None:
    for one in replicas:
        ends_s = one.metric("agentcube_snapstart_webhook_certificate_expiry_timestamp_seconds")
        assert ends_s is not None
        assert 0 < ends_s - time.time() <= SERVING_LIFE.total_seconds()


def test_one_of_two_leads(world: World, replicas: list[ControlPlane]) -> None:
    wait_for_leader(world, replicas)
    with most_leaders(replicas) as seen:
        begin_rebuild(world)()
    assert max(seen) == 1
    expect_restored(world)
    assert_at_rest(world)


def test_the_other_goes_on_when_the_leader_dies_in_a_build(
    world: World, replicas: list[ControlPlane]
) -> None:
    first = wait_for_leader(world, replicas)
    with most_leaders(replicas) as seen:
        wait_until_rebuilt = begin_rebuild(world)
        wait_for_machine(world)
        first.kill()
        wait_until_rebuilt()
        first.start()
    assert max(seen) == 1
    assert wait_for_leader(world, replicas) is not first
    expect_restored(world)
    assert_at_rest(world)


def test_a_leader_that_was_asleep_gives_way(world: World, replicas: list[ControlPlane]) -> None:
    first = wait_for_leader(world, replicas)
    (other,) = (one for one in replicas if one is not first)
    wait_until_rebuilt = begin_rebuild(world)
    wait_for_machine(world)
    pid = first.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        world.cluster.wait_for("the other to lead", other.is_leader, deadline_s=90)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until_rebuilt()
    world.cluster.wait_for("the other alone to lead", lambda: leaders(replicas) == [other])
    expect_restored(world)
    assert_at_rest(world)
