"""How much work are many snapshots on many nodes for the snapshot controller?

The production controller with its informers and its queue, over an API server and a store in
memory, in simulated time. The nodes' agents are stand-ins that answer each task a second later:
nothing is snapshotted. For each size: everything built from nothing; one node's change that bears
on it, one that does not; a quiet day. What is counted are plans, writes; what is measured is the
processor time of this process, API server and store included.

    python -m bench.planner                # 1,000 snapshots on 50 nodes; in pools; 5,000 nodes
    python -m bench.planner --sizes 100x50x1

A line of JSON for each size, on stdout.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from bench.machine import read_commit
from controlplane.api import names
from controlplane.api.manifest import Manifest
from controlplane.api.types import SnapshotPhase
from controlplane.kube.resource import LEASES, NODES, SNAPSHOT_CLASSES, SNAPSHOTS, TASKS
from controlplane.snapshots.observed import Observed
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.steps import Plan
from controlplane.store.store import OwnerKey, Stored
from tests.fakes.kube_cluster import FakeCluster
from tests.fakes.store import MemoryStore
from tests.simulation.ambient import simulated
from tests.simulation.loop import Process, make_loop
from tests.simulation.network import Network
from tests.simulation.processes import LEASES_IN, ControlPlane, Silent
from tests.simulation.truth import TEMPLATES

START: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PROVIDER: Final = "snapstart.qemu.org"
DAY_S: Final = 86_400.0
# Without the look at each record every ten minutes, one read: what is counted is due to changes.
POLICY: Final = Policy(recheck_store_s=1e7)
# A Lease that lasts longer than everything here: signs of life are no writes of the controller's.
_LEASE_S: Final = 10_000_000


@dataclass(frozen=True)
class Size:
    """Snapshots and nodes, both spread evenly over pools: a snapshot selects one pool's nodes."""

    snapshots: int
    nodes: int
    pools: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Such as 1000x50x1."""
        return cls(*map(int, text.split("x")))

    def __str__(self) -> str:
        return f"{self.snapshots}x{self.nodes}x{self.pools}"


SIZES: Final = (Size(1000, 50, 1), Size(1000, 50, 10), Size(1, 5000, 1))


class Yard:
    """A control plane, its API server, its store; everybody is polite, nothing fails."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.random = Random(1)
        self.loop = make_loop()
        self.plans = 0
        self.plan_s = 0.0
        numbers = itertools.count(1)
        self.cluster = FakeCluster(
            now=lambda: self.now, new_uid=lambda: f"uid-{next(numbers)}", history_limit=100_000
        )
        self.memory = MemoryStore()
        self.network = Network(self.loop, self.random, lambda _: None)
        self.quiet = Silent()
        self._tasks = self.cluster.watch(TASKS, resource_version="0")
        self._answers = 0

    @property
    def now(self) -> datetime:
        """UTC."""
        return START + timedelta(seconds=self.loop.now_s)

    def planned(self, _: Observed, __: Plan) -> None:
        """Count a plan."""
        self.plans += 1

    # What the audit of a store is told; nothing is of interest here

    def read(self, process: Process, key: OwnerKey, stored: Stored | None, is_stale: bool) -> None:
        """See StoreAudit."""

    def put(
        self,
        process: Process,
        key: OwnerKey,
        before: bytes | None,
        version: str | None,
        manifest: Manifest,
    ) -> None:
        """See StoreAudit."""

    def deleted(
        self, process: Process, key: OwnerKey, before: bytes | None, version: str | None
    ) -> None:
        """See StoreAudit."""

    # The scene

    def furnish(self) -> None:
        """Nodes with their agents' Leases, a class and a template for each pool, snapshots."""
        for number in range(self.size.nodes):
            self._add_node(f"node-{number:04d}", number % self.size.pools)
        for pool in range(self.size.pools):
            self._add_class(pool)
        template = {"spec": {"containers": [{"name": "code", "image": "registry.example/code:1"}]}}
        self.cluster.create(
            TEMPLATES,
            {
                "metadata": {"name": "python", "namespace": "team-a"},
                "spec": {"podTemplate": template},
            },
        )
        for number in range(self.size.snapshots):
            self._add_snapshot(f"snapshot-{number:04d}", number % self.size.pools)

    def _add_node(self, name: str, pool: int) -> None:
        at = f"{self.now:%Y-%m-%dT%H:%M:%SZ}"
        labels = {names.provider_label(PROVIDER): "true", "pool": str(pool)}
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": at}
        self.cluster.create(
            NODES,
            {"metadata": {"name": name, "labels": labels}, "status": {"conditions": [ready]}},
        )
        spec = {"holderIdentity": name, "leaseDurationSeconds": _LEASE_S, "renewTime": at}
        meta = {"name": names.agent_lease(name), "namespace": LEASES_IN}
        self.cluster.create(LEASES, {"metadata": meta, "spec": spec})

    def _add_class(self, pool: int) -> None:
        spec = {
            "providerName": PROVIDER,
            "supportedSnapshotModes": ["Fork"],
            "nodeSelector": {"pool": str(pool)},
        }
        body = {"metadata": {"name": f"pool-{pool}"}, "spec": spec}
        self.cluster.create(SNAPSHOT_CLASSES, body)

    def _add_snapshot(self, name: str, pool: int) -> None:
        source = {"apiGroup": names.EXTENSIONS_GROUP, "kind": "SandboxTemplate", "name": "python"}
        spec = {
            "snapshotMode": "Fork",
            "sourceRef": source,
            "snapshotClassName": f"pool-{pool}",
        }
        self.cluster.create(
            SNAPSHOTS, {"metadata": {"name": name, "namespace": "team-a"}, "spec": spec}
        )

    # Running

    def run_until(self, is_done: Callable[[], bool], most_s: float) -> None:
        """Let everything happen in its order. Raises: RuntimeError if it does not come to it."""
        end_s, asked_s = self.loop.now_s + most_s, -1.0
        while self.is_busy or self.loop.now_s == asked_s or not is_done():
            asked_s = self.loop.now_s
            if asked_s > end_s:
                raise RuntimeError(f"{self.size}: not done after {most_s:.0f} simulated seconds")
            self.step()

    @property
    def is_busy(self) -> bool:
        """Something is under way that needs no time."""
        return bool(self.network.ops or self.network.streams)

    def step(self) -> None:
        """Everything that can happen now; else time passes."""
        self.loop.drain()
        if self.network.ops:
            self.network.perform(self.network.ops[0])
        elif self.network.streams:
            self.network.deliver(next(iter(self.network.streams)))
        elif not self._answer():
            next_s = self.loop.next_timer_s()
            assert next_s is not None
            self.loop.advance(next_s)

    def _answer(self) -> bool:
        """The agents' stand-in: a task that was made is Ready a second later."""
        events = self._tasks.poll()
        for event in events:
            if not (event.body.get("status") or {}).get("phase") and event.kind == "ADDED":
                name = event.body["metadata"]["name"]
                self._answers += 1
                self.loop.call_later(1.0, self._report, name)
        return bool(events)

    def _report(self, name: str) -> None:
        at = f"{self.now:%Y-%m-%dT%H:%M:%SZ}"
        status = {"status": {"phase": "Ready", "observedAt": at}}
        self.cluster.merge(TASKS, name, status, namespace="team-a", subresource="status")

    # Looking

    def is_ready(self) -> bool:
        """Every snapshot is Ready on each node of its pool, nothing is left over."""
        wanted = self.size.nodes // self.size.pools
        if self._answers < self.size.snapshots * wanted or self.cluster.objects(TASKS):
            return False
        return all(
            (body.get("status") or {}).get("phase") == SnapshotPhase.READY
            and body["status"]["readyNodeCount"] == wanted
            for body in self.cluster.objects(SNAPSHOTS)
        )


def measure(size: Size) -> dict[str, Any]:
    """All phases of one size."""
    yard = Yard(size)
    with ExitStack() as stack:
        stack.enter_context(simulated(yard.loop, yard.random, yard.planned))
        yard.furnish()
        stage: Any = yard  # what agents ask of their host is not asked here
        leader = ControlPlane(stage, 1, POLICY)
        line: dict[str, Any] = {"series": "planner", "size": str(size), **_build(yard, leader)}
        line |= _settle(yard)
        line |= _change(yard, leader, "node_cordoned", {"spec": {"unschedulable": True}})
        line |= _change(yard, leader, "node_back", {"spec": {"unschedulable": False}})
        line |= _change(
            yard, leader, "node_heartbeat", {"status": {"nodeInfo": {"x": "y"}}}, "status"
        )
        line |= _stay(yard, leader)
    line["driver"] = "none: tasks are answered by a stand-in"
    return line


def _build(yard: Yard, leader: ControlPlane) -> dict[str, Any]:
    began_s, began = time.process_time(), yard.loop.now_s
    yard.run_until(lambda: _is_all_answered(yard), 3600)
    yard.run_until(yard.is_ready, 3600)
    took_s = time.process_time() - began_s
    size = yard.size
    return {
        "artifacts": size.snapshots * size.nodes // size.pools,
        "build_plans": yard.plans,
        "build_api_writes": leader.kube.client.writes,
        "build_store_writes": yard.memory.writes,
        "build_cpu_s": round(took_s, 1),
        "build_simulated_s": round(yard.loop.now_s - began, 1),
    }


def _is_all_answered(yard: Yard) -> bool:
    """Cheap enough to be asked after each step."""
    size = yard.size
    return yard._answers >= size.snapshots * size.nodes // size.pools


def _settle(yard: Yard) -> dict[str, Any]:
    """What was woken by the last writes."""
    end_s = yard.loop.now_s + 1500
    yard.run_until(lambda: yard.loop.now_s > end_s, 3000)
    return {}


def _change(
    yard: Yard, leader: ControlPlane, name: str, patch: dict[str, Any], part: str = ""
) -> dict[str, Any]:
    """One node changes. Concerned are the snapshots of its pool."""
    plans, writes = yard.plans, leader.kube.client.writes
    began_s, end_s = time.process_time(), yard.loop.now_s + 60
    yard.cluster.merge(NODES, "node-0000", patch, subresource=part)
    yard.run_until(lambda: yard.loop.now_s > end_s, 120)
    _settle(yard)
    return {
        f"{name}_concerns": yard.size.snapshots // yard.size.pools,
        f"{name}_plans": yard.plans - plans,
        f"{name}_api_writes": leader.kube.client.writes - writes,
        f"{name}_cpu_s": round(time.process_time() - began_s, 3),
    }


def _stay(yard: Yard, leader: ControlPlane) -> dict[str, Any]:
    plans = yard.plans
    before = leader.kube.client.writes + yard.memory.writes
    end_s = yard.loop.now_s + DAY_S
    yard.run_until(lambda: yard.loop.now_s > end_s, 2 * DAY_S)
    return {
        "day_writes": leader.kube.client.writes + yard.memory.writes - before,
        "day_plans": yard.plans - plans,
    }


def judge(line: dict[str, Any]) -> list[str]:
    """The promises that a line breaks."""
    size, broken = line["size"], []
    if line["day_writes"]:
        broken.append(f"{size}: {line['day_writes']} writes in a day in which nothing changed")
    if line["node_heartbeat_plans"]:
        broken.append(f"{size}: a heartbeat woke {line['node_heartbeat_plans']} plans")
    for name in ("node_cordoned", "node_back"):
        concerned, plans = line[f"{name}_concerns"], line[f"{name}_plans"]
        if plans > _MOST_PLANS * concerned:
            broken.append(f"{size}: {name} concerns {concerned} snapshots, {plans} plans were made")
    return broken


# To see the change, to see the record written, the status, the task, its answer, its end.
_MOST_PLANS: Final = 10


def main() -> int:
    """Exit status 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="*", type=Size.parse, default=SIZES)
    parser.add_argument("--json", action="store_true", help="does nothing: it always is JSON")
    broken = []
    for size in parser.parse_args().sizes:
        line = measure(size)
        machine = {
            "processors": os.cpu_count(),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "commit": read_commit(),
        }
        print(json.dumps(line | machine), flush=True)
        broken += judge(line)
    for text in broken:
        print(f"bench.planner: {text}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
