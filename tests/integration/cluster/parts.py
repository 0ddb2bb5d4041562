"""Kill one part of a running cluster, bring it back, see that everything comes to rest."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import redis

from agentd.client.calls import list_templates
from bench.cluster import sessions, snapshot
from bench.cluster.node import DemoNode
from bench.cluster.result import Session
from bench.cluster.world import World
from controlplane.api import names
from controlplane.api.types import ArtifactPhase, SandboxSnapshotTask, TaskOperation

SETTLED_S = 180.0
_revisions = itertools.count(1)


@dataclass(frozen=True)
class Part:
    """One program. restart: returns when it is ready again."""

    name: str
    kill: Callable[[World], None]
    restart: Callable[[World], None]


def only_node(world: World) -> DemoNode:
    """The one node of such a world."""
    (node,) = world.nodes.values()
    return node


PARTS = (
    Part("control plane", lambda w: w.replicas[0].kill(), lambda w: w.replicas[0].start()),
    Part("agentd", lambda w: only_node(w).kill(), lambda w: only_node(w).start()),
    Part("redis", lambda w: w.redis.kill(), lambda w: w.redis.restart()),
    Part(
        "api server",
        lambda w: w.cluster.kill_apiserver(),
        lambda w: w.cluster.restart_apiserver(),
    ),
)


def make_ready(world: World) -> None:
    """A snapshot that is Ready, made if there is none."""
    snapshot.declare_runtime(world)
    snapshot.declare_snapshot(world)
    snapshot.wait_status(world, "the snapshot Ready", snapshot.is_whole, deadline_s=SETTLED_S)


def begin_rebuild(world: World) -> Callable[[], None]:
    """Edit the template. Returns: what waits until the new set is active on every node."""
    with world.observer.changed:
        status = snapshot.status_of(world)
    assert status is not None
    before = status.ready_at
    snapshot.edit_runtime(world, str(next(_revisions)))

    def wait() -> None:
        snapshot.wait_status(
            world,
            "the rebuilt set active",
            lambda now: now.ready_at != before and snapshot.is_whole(now),
            deadline_s=SETTLED_S,
        )

    return wait


def wait_for_task(world: World, phase: ArtifactPhase) -> SandboxSnapshotTask:
    """The newest order to create, once its node's agent says that it is in a phase."""

    def find() -> SandboxSnapshotTask | None:
        orders = [
            task
            for task in world.observer.tasks.values()
            if task.spec.operation is TaskOperation.CREATE
        ]
        newest = max(orders, key=lambda task: seq_of(task.spec.snapshot_key), default=None)
        is_there = newest is not None and newest.status is not None
        return newest if is_there and newest.status.phase is phase else None  # type: ignore[union-attr]

    return world.observer.wait(f"a Create task {phase.value}", find, deadline_s=SETTLED_S)


def seq_of(key: str) -> int:
    """The number of a set, which every rebuild raises."""
    return int(key.rpartition("-r")[2])


def wait_for_machine(world: World) -> None:
    """A build's machine runs."""
    machines = only_node(world).machines
    world.cluster.wait_for("a machine", lambda: bool(machines()), deadline_s=SETTLED_S)


def read_manifest(world: World) -> dict[str, object]:
    """What the store keeps of the one snapshot."""
    with redis.Redis.from_url(world.redis.url, password=world.store["REDIS_PASSWORD"]) as client:
        (key,) = client.keys("*")
        found: dict[str, object] = json.loads(client.get(key))
    return found


def assert_at_rest(world: World) -> None:
    """One set, its artifact alone on the node, no build, no machine, nothing to be collected.

    Raises: ServerDiedError with what did not come to be.
    """
    node = only_node(world)

    def keys_on_node() -> list[str]:
        return [one.name for one in node.send(list_templates()).templates]

    def is_at_rest() -> bool:
        manifest = read_manifest(world)
        active = manifest.get("activeSetRef")
        assert isinstance(active, dict)
        return (
            list(manifest["artifactSets"]) == [active["snapshotKey"]]  # type: ignore[call-overload]
            and not manifest.get("retiredSets")
            and keys_on_node() == [active["snapshotKey"]]
            and not builds(world)
        )

    world.cluster.wait_for("everything at rest", is_at_rest, deadline_s=60)
    assert not node.machines()


def builds(world: World) -> list[str]:
    """The names of build Sandboxes."""
    with world.observer.changed:
        found = list(world.observer.sandboxes.values())
    return [one.metadata.name for one in found if one.metadata.label(names.TEMPLATE_SANDBOX)]


def use_session(world: World) -> Session:
    """Start one, end it; returns what it was."""
    session = sessions.start(world, snapshot.NAME)
    end_session(world, session.name)
    return session


def expect_restored(world: World) -> None:
    """New sessions restore again.

    Until the webhook's view has caught up with a server that was away, they may start cold.
    """
    deadline_s = time.monotonic() + SETTLED_S
    while not use_session(world).restored:
        if time.monotonic() > deadline_s:
            raise AssertionError("sessions still start cold though the set is active")


def end_session(world: World, name: str) -> None:
    """Delete it, wait for its machine to end."""
    sessions.delete(world, name)
    node = only_node(world)
    world.cluster.wait_for("no machine", lambda: not node.machines(), deadline_s=60)
