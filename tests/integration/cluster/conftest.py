"""A cluster with real nodes, for tests that take it apart."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from agentd.image import Image
from bench.cluster.observer import Observer
from bench.cluster.world import World
from bench.demo import IMAGES

# A node that does not answer is counted as lost soon; tests wait for nothing else.
SETTINGS = {"SNAPSHOTS__NODE_GRACE_S": "5", "SNAPSHOTS__DELETION_GRACE_S": "0"}
# What is replaced is collected soon; a dead leader is followed soon.
HASTY = {
    **SETTINGS,
    "SNAPSHOTS__RETIRED_GRACE_S": "3",
    "LEADER__DURATION_S": "10",
    "LEADER__DEADLINE_S": "7",
    "LEADER__RETRY_S": "1",
}


@pytest.fixture(scope="session")
def may_make_networks() -> None:
    """Each node is a network namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces for the nodes take root")


@pytest.fixture(scope="module")
def world(may_make_networks: None, guest_image: Image) -> Iterator[World]:
    """Everything, with one node, for the tests of one module; nobody watches it yet."""
    found = World(guest_image, IMAGES, nodes=("node-a",), settings=HASTY, is_observed=False)
    with found:
        yield found
    assert found.leaks is not None
    assert not found.leaks.count, found.leaks


@pytest.fixture
def observer(world: World) -> Iterator[Observer]:
    """What the cluster shows, from now to the end of the test."""
    with world.observing() as found:
        yield found
