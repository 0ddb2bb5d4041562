"""Act out the scenarios of a cluster: a real Kubernetes, real nodes, real machines.

They share one snapshot, which the first does without and the second declares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from agentd.image import Image
from bench.cluster import sessions, snapshot
from bench.cluster.node import DemoNode
from bench.cluster.sessions import NAMESPACE
from bench.cluster.world import World
from bench.demo import IMAGES
from bench.demo_cluster import SETTINGS, find_programs
from bench.validate import cluster_faults
from bench.validate.cluster_loss import node_loss
from bench.validate.cluster_sessions import end_sessions, finish, take, take_together
from bench.validate.evidence import Record, Start
from bench.validate.plan_cluster import DROPPED, ELSEWHERE, FAILING, SHORT
from bench.validate.run import leaving_nothing
from bench.validate.sizes import Sizes
from controlplane.api.types import SandboxSnapshotStatus, SnapshotPhase
from controlplane.kube.resource import SNAPSHOTS
from tests.kube.assets import Assets
from tests.kube.objects import MERGE

VICTIM = "node-b"
SERVED_AGAIN_S = 120.0
BEFORE_SNAPSHOT = ("cluster: cold baseline", "cluster: no active set")
# Sessions go to both nodes in turn, more or less.
_TRIES = 4


@dataclass
class ClusterStage:
    """A cluster of two nodes. has_snapshot: one was declared, and was Ready."""

    world: World
    sizes: Sizes
    has_snapshot: bool = field(default=False)

    def perform(self, name: str, record: Record) -> None:
        """Act one scenario out; the cluster is whole again first. Raises: what its acts raise."""
        self._mend()
        if not self.has_snapshot and name not in BEFORE_SNAPSHOT:
            snapshot.declare_snapshot(self.world)
            snapshot.wait_status(self.world, "the snapshot Ready", snapshot.is_whole)
            self.has_snapshot = True
        ACTS[name](self, record)

    @property
    def victim(self) -> DemoNode:
        """The node on which things go wrong."""
        return self.world.nodes[VICTIM]

    def _mend(self) -> None:
        """What a scenario before has left: sessions, a node that is away, a set to be built."""
        for node in self.world.nodes.values():
            if not node.server.is_running:
                node.start()
        self.world.check()
        end_sessions(self.world)
        if self.has_snapshot:
            snapshot.wait_status(self.world, "the snapshot Ready", snapshot.is_whole)


@contextmanager
def open_cluster(image: Image, sizes: Sizes, say: Callable[[str], None]) -> Iterator[ClusterStage]:
    """The cluster; of it nothing is left, or that is told."""
    find_programs(Assets())
    world = World(image, IMAGES, settings=SETTINGS, say=say)
    with leaving_nothing(lambda: leaks_of(world)), world:
        snapshot.declare_runtime(world)
        yield ClusterStage(world, sizes)


def leaks_of(world: World) -> list[str]:
    """What a closed World has left, by name."""
    found = world.leaks
    assert found is not None
    return [name for kind in found.__struct_fields__ for name in getattr(found, kind)]


def cold_baseline(stage: ClusterStage, record: Record) -> None:
    """Sessions of a template that has no snapshot."""
    count = stage.sizes.cluster
    record.note(asked=count)
    for _ in range(count):
        record.add(take(stage.world, "cold"))


def no_active_set(stage: ClusterStage, record: Record) -> None:
    """A session while the first set is being built."""
    world, begun_s = stage.world, time.monotonic()
    snapshot.declare_snapshot(world)
    status = snapshot.wait_status(world, "the snapshot's first status", lambda _status: True)
    record.add(take(world, "no active set"))
    record.note(phase_when_asked=status.phase.value)
    snapshot.wait_status(world, "the snapshot Ready on all nodes", snapshot.is_whole)
    record.note(built_in_s=round(time.monotonic() - begun_s, 1))
    stage.has_snapshot = True


def restore_hit(stage: ClusterStage, record: Record) -> None:
    """Sessions one after another, while the snapshot is Ready everywhere."""
    count = stage.sizes.cluster
    record.note(asked=count)
    for _ in range(count):
        record.add(take(stage.world, "restored"))


def fan_out(stage: ClusterStage, record: Record) -> None:
    """Sessions at once."""
    count, begun_s = stage.sizes.cluster_together, time.monotonic()
    record.note(asked=count)
    record.add(*take_together(stage.world, "restored", count))
    record.note(wall_ms=round(1e3 * (time.monotonic() - begun_s), 1))


def store_down(stage: ClusterStage, record: Record) -> None:
    """A session without a store; one after its return."""
    world = stage.world
    with cluster_faults.store_down(world):
        asked_s = time.monotonic()
        begun = sessions.begin(world, snapshot.NAME)
        record.note(accepted_in_ms=round(1e3 * (time.monotonic() - asked_s), 1))
        record.add(finish(world, begun, "store down"))
    record.add(served_again(world, "store back"))


def served_again(world: World, group: str) -> Start:
    """The first session that restores; the last that does not when time is up."""
    give_up = time.monotonic() + SERVED_AGAIN_S
    while True:
        start = take(world, group)
        if start.said == "fork" or time.monotonic() > give_up:
            return start


def hash_differs(stage: ClusterStage, record: Record) -> None:
    """The template is edited while nothing may be rebuilt; then it may."""
    world = stage.world
    old = take(world, "before")
    record.add(old)
    _allow_rebuild(world, is_allowed=False)
    snapshot.edit_runtime(world, "2")
    snapshot.wait_status(world, "the snapshot stale", snapshot.is_stale)
    record.note(is_told_stale=True)
    record.add(take(world, "edited"))
    before = _status(world).ready_at
    begun_s = time.monotonic()
    _allow_rebuild(world, is_allowed=True)
    snapshot.wait_status(
        world,
        "the rebuilt set active",
        lambda now: now.ready_at != before and snapshot.is_whole(now),
    )
    record.note(rebuilt_in_s=round(time.monotonic() - begun_s, 1))
    new = served_again(world, "rebuilt")
    record.add(new)
    record.note(key_is_new=new.intent not in ("", old.intent))


def _allow_rebuild(world: World, *, is_allowed: bool) -> None:
    patch = {"spec": {"forkPolicy": {"rebuildOnSourceChange": is_allowed}}}
    path = SNAPSHOTS.path(NAMESPACE, snapshot.NAME)
    world.cluster.api.call("PATCH", path, patch, content_type=MERGE)


def _status(world: World) -> SandboxSnapshotStatus:
    with world.observer.changed:
        status = snapshot.status_of(world)
    assert status is not None
    return status


def restore_fails(stage: ClusterStage, record: Record) -> None:
    """One node cannot restore what it is told to, for three reasons in turn."""
    world, victim = stage.world, stage.victim
    before = take(world, "before")
    record.add(before)
    with cluster_faults.failing_monitor(victim):
        on_victim(stage, record, FAILING)
    end_sessions(world)
    with cluster_faults.truncated(victim, before.intent):
        on_victim(stage, record, SHORT)
    end_sessions(world)
    snapshot.wait_status(world, "all nodes ready again", snapshot.is_whole)
    cluster_faults.drop_artifacts(victim)
    on_victim(stage, record, DROPPED)
    record.note(still_ready=_status(world).phase is SnapshotPhase.READY)


def on_victim(stage: ClusterStage, record: Record, group: str) -> None:
    """Sessions, two at once, until one is on the node where things go wrong."""
    for _ in range(_TRIES):
        found = take_together(stage.world, group, 2)
        elsewhere = [one for one in found if one.node not in ("", VICTIM)]
        record.add(*(one for one in found if one not in elsewhere))
        record.add(*(msgspec.structs.replace(one, group=ELSEWHERE) for one in elsewhere))
        if len(elsewhere) < len(found):
            return
    raise AssertionError(f"of {2 * _TRIES} sessions none was put on {VICTIM}")


ACTS: Mapping[str, Callable[[ClusterStage, Record], None]] = {
    "cluster: cold baseline": cold_baseline,
    "cluster: no active set": no_active_set,
    "cluster: restore hit": restore_hit,
    "cluster: N-way fan-out": fan_out,
    "cluster: store down": store_down,
    "cluster: hash differs": hash_differs,
    "cluster: restore fails": restore_fails,
    "cluster: node loss": lambda stage, record: node_loss(
        stage.world, stage.victim, stage.sizes.cluster_together, record
    ),
}
