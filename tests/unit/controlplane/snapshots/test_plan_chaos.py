"""Seeded disorder: whatever happened, a healthy world comes to rest whole, and nothing is lost."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import timedelta

import pytest

from controlplane.api.types import ArtifactPhase, SnapshotPhase
from controlplane.errors import ControlPlaneError, UnavailableError
from controlplane.kube.resource import NODES
from controlplane.snapshots.hash import compute_hash, fork_source
from tests.fakes.snapshot_world import World, make_world
from tests.fakes.store import StoreFault

NAMES = ("node-a", "node-b", "node-c")


class Chaos:
    """One seed's world with its dice."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        policy = {"rebuildAfter": "1h"} if self.dice.random() < 0.5 else {}
        if self.dice.random() < 0.3:
            policy["rebuildOnSourceChange"] = False  # type: ignore[assignment]
        self.world = make_world("node-a", "node-b", forkPolicy=policy)
        self.images = 0

    def step(self) -> None:
        """One thing goes on, or goes wrong."""
        act = self.dice.choice(
            [self.reconcile] * 6
            + [self.world.run_agents] * 3
            + [self.tick] * 3
            + [self.node, self.flap, self.edit, self.fault, self.fail, self.silence, self.lose]
        )
        act()
        self.check()

    def reconcile(self) -> None:
        """Perhaps only a part of it, perhaps on an old read."""
        if self.dice.random() < 0.1:
            self.world.store.fail_next("get", StoreFault.STALE)
        most = self.dice.choice([None, None, self.dice.randrange(8)])
        with suppress(ControlPlaneError):
            plan, snapshot = self.world.plan(), self.world.snapshot
            self.world.perform(plan, snapshot, most)

    def tick(self) -> None:
        self.world.now += timedelta(seconds=self.dice.choice([1, 20, 70, 400, 1000]))

    def node(self) -> None:
        name = self.dice.choice(NAMES)
        if self.has(name):
            self.world.remove_node(name)
        else:
            self.world.add_node(name)

    def flap(self) -> None:
        name = self.dice.choice(NAMES)
        if self.has(name):
            self.world.set_ready(name, self.dice.random() < 0.5)

    def edit(self) -> None:
        if self.dice.random() < 0.3:
            self.world.force()
            return
        self.images += self.dice.choice([0, 1])
        self.world.edit_template(f"registry.example/picod:{self.images}")

    def fault(self) -> None:
        faults = [StoreFault.CONFLICT, StoreFault.LOST_REPLY, StoreFault.UNAVAILABLE]
        self.world.store.fail_next("put", self.dice.choice(faults))
        verb = self.dice.choice(["create", "merge", "delete"])
        self.world.client.fail_next(
            verb, UnavailableError("away"), is_done=self.dice.random() < 0.5
        )

    def fail(self) -> None:
        self.world.agents.failures.setdefault(self.dice.choice(NAMES), []).append("boom")

    def silence(self) -> None:
        name = self.dice.choice(NAMES)
        self.world.silent ^= {name}

    def lose(self) -> None:
        """An artifact vanishes from a node that is away."""
        held = sorted(self.world.agents.artifacts)
        if held and self.dice.random() < 0.3:
            node, key = self.dice.choice(held)
            self.world.set_ready(node, False)
            del self.world.agents.artifacts[node, key]

    def has(self, name: str) -> bool:
        return any(body["metadata"]["name"] == name for body in self.world.cluster.objects(NODES))

    def check(self) -> None:
        """Nothing is unreachable; a status adds up."""
        world = self.world
        status = world.snapshot.status
        if status is not None:
            assert sum(world.counts_of_nodes) == status.target_node_count
        raw = world.store.texts.get(str(world.key))
        if raw is None:
            assert not world.agents.artifacts
            return
        text = raw.decode()
        for node, key in world.agents.artifacts:
            assert f'"{key}"' in text, f"{key} on {node} is known to nobody"

    def heal(self) -> None:
        """No more faults; every node is well."""
        world = self.world
        world.store._faults.clear()
        world.client._faults.clear()
        world.agents.failures.clear()
        world.silent.clear()
        if not self.has("node-a"):
            world.add_node("node-a")
        for body in world.cluster.objects(NODES):
            world.set_ready(body["metadata"]["name"], True)


def _check_whole(world: World) -> None:
    nodes = {body["metadata"]["name"] for body in world.cluster.objects(NODES)}
    assert world.phase is SnapshotPhase.READY
    key = world.active.snapshot_key
    # What a period's replacement retired may still be in its grace time.
    retired = {one.snapshot_key for one in world.manifest.retired_sets or ()}
    held = {one for one in world.agents.artifacts if one[1] not in retired}
    assert held == {(name, key) for name in nodes}
    assert {one.phase for one in world.active.artifacts or ()} == {ArtifactPhase.READY}
    seen = world.observe()
    assert seen.template is not None
    assert seen.snapshot_class is not None
    wanted = compute_hash(fork_source(seen.template, seen.snapshot_class))
    assert world.condition("Stale") == ("False" if world.active.snapshot_hash == wanted else "True")
    assert len(retired) <= 1
    assert not world.sandboxes


@pytest.mark.parametrize("seed", range(40))
def test_a_world_that_was_in_disorder_comes_to_rest_whole(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(120):
        chaos.step()
    chaos.heal()
    world = chaos.world
    world.edit_template(f"registry.example/picod:{seed + 1000}")  # also stale ones are renewed
    world.force()
    world.run_for(9000)
    world.run_for(600)
    _check_whole(world)
