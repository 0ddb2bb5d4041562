"""With the older agent-sandbox it is the same story."""

from __future__ import annotations

import pytest

from agentd.image import Image
from bench.cluster import pool, sessions, snapshot
from bench.cluster.world import World
from bench.demo import IMAGES
from tests.integration.cluster.conftest import HASTY
from tests.integration.cluster.parts import end_session, make_ready, only_node
from tests.kube.objects import MERGE

pytestmark = [pytest.mark.cluster, pytest.mark.vm, pytest.mark.timeout(420)]


def test_with_v1alpha1_sessions_and_pools_restore_and_a_deletion_is_whole(
    may_make_networks: None, guest_image: Image
) -> None:
    world = World(
        guest_image, IMAGES, nodes=("node-a",), sandbox_version="v1alpha1", settings=HASTY
    )
    with world:
        make_ready(world)
        session = sessions.start(world, snapshot.NAME)
        (member,) = pool.fill(world, snapshot.NAME, 1)
        assert (session.restored, member.restored) == (True, True)
        assert session.key == member.key
        empty_pool(world)
        end_session(world, session.name)
        snapshot.delete(world)
        assert snapshot.find_remains(world) == ()
        assert not only_node(world).machines()
    assert world.leaks is not None
    assert world.leaks.count == 0, world.leaks


def empty_pool(world: World) -> None:
    """Have the pool end what it made."""
    item = pool.pool_object(snapshot.NAME, 0, world.sandbox_version)
    path = world.cluster.api.path_of(item)
    world.cluster.api.call("PATCH", path, {"spec": {"replicas": 0}}, content_type=MERGE)
    world.observer.wait("an empty pool", lambda: not pool.members(world), deadline_s=60)
