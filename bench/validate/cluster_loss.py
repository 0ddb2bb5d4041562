"""Lose a node in the middle of a fan-out."""

from __future__ import annotations

import time
from functools import partial

from bench.cluster import sessions, snapshot
from bench.cluster.node import DemoNode
from bench.cluster.sessions import NAMESPACE, Begun
from bench.cluster.world import World
from bench.validate.cluster_faults import lose
from bench.validate.cluster_sessions import end_sessions, finish, take
from bench.validate.evidence import Record
from bench.validate.node_sessions import run_jobs
from controlplane.api.types import SnapshotPhase

BOUND_S = 60.0
NOTICE_S = 120.0
AFTER = 2


def node_loss(world: World, victim: DemoNode, count: int, record: Record) -> None:
    """Sessions at once; when all have a node, one node is lost, and comes back in the end."""
    begun = [sessions.begin(world, snapshot.NAME) for _ in range(count)]
    nodes = wait_bound(world, begun)
    lose(victim)
    lost_s = time.monotonic()
    lost = [one for one in begun if nodes[one.name] == victim.name]
    others = [one for one in begun if one not in lost]
    record.note(asked=count, on_lost_node=len(lost), survivors=len(others))
    jobs = [partial(finish, world, one, "survivor") for one in others]
    if jobs:
        record.add(*run_jobs(jobs, workers=len(jobs)))
    status = snapshot.wait_status(
        world,
        "the lost node's artifact unavailable",
        lambda now: now.unavailable_node_count == 1,
        deadline_s=NOTICE_S,
    )
    record.note(noticed_in_s=round(time.monotonic() - lost_s, 1))
    record.note(still_ready=status.phase is SnapshotPhase.READY)
    record.note(lost_that_look_ready=count_ready(world, lost))
    record.add(*(take(world, "after the loss") for _ in range(AFTER)))
    recover(world, victim, record)


def recover(world: World, victim: DemoNode, record: Record) -> None:
    """The node comes back: its artifact counts again, its lost sessions can be deleted."""
    back_s = time.monotonic()
    victim.start()
    snapshot.wait_status(world, "all nodes ready again", snapshot.is_whole)
    record.note(recovered_in_s=round(time.monotonic() - back_s, 1))
    end_sessions(world)
    left = sum(len(node.machines()) for node in world.nodes.values())
    record.note(machines_left=left)


def wait_bound(world: World, begun: list[Begun]) -> dict[str, str]:
    """On which node each session is, once all have one."""

    def find() -> dict[str, str] | None:
        pods = {one.name: world.observer.pods.get((NAMESPACE, one.name)) for one in begun}
        nodes = {name: pod.spec.node_name for name, pod in pods.items() if pod is not None}
        return nodes if len(nodes) == len(begun) and all(nodes.values()) else None

    return world.observer.wait("all sessions bound", find, deadline_s=BOUND_S)


def count_ready(world: World, begun: list[Begun]) -> int:
    """Those whose Sandboxes say that they are Ready."""
    with world.observer.changed:
        found = [world.observer.sandboxes.get((NAMESPACE, one.name)) for one in begun]
    return sum(one is not None and one.is_ready for one in found)
