"""The controller's shell: informers to keys, keys to plans, plans to effects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from controlplane.api import names
from controlplane.api.core import Sandbox
from controlplane.api.types import SnapshotPhase
from controlplane.errors import ConflictError, UnavailableError
from controlplane.kube.events import ObjectRef
from controlplane.kube.resource import LEASES, NODES, SNAPSHOTS, TASKS
from controlplane.kube.sandboxes import SandboxApi, SandboxVersion
from controlplane.snapshots.controller import SnapshotController
from controlplane.snapshots.executor import Executor
from controlplane.snapshots.metrics import SnapshotMetrics
from controlplane.snapshots.steps import (
    Count,
    CreateTask,
    EmitEvent,
    Metric,
    Plan,
    PutManifest,
    WriteStatus,
)
from controlplane.snapshots.store_errors import CountedStore
from tests.fakes.kube import FakeKube
from tests.fakes.snapshot_world import NAMESPACE, VERSION, World, make_world
from tests.fakes.store import FakeStore, StoreFault

SANDBOX_API = SandboxApi(SandboxVersion.V1BETA1, SandboxVersion.V1BETA1)
LEASE_NAMESPACE = "agentcube-system"


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def normal(self, about: ObjectRef, reason: str, message: str) -> None:
        self.seen.append(("Normal", reason))

    def warning(self, about: ObjectRef, reason: str, message: str) -> None:
        self.seen.append(("Warning", reason))


class Rig:
    """A controller on the world's cluster, its store, its clock."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kube = FakeKube(world.cluster)
        self.store = FakeStore(world.store)
        self.registry = CollectorRegistry()
        self.recorder = Recorder()
        self.metrics = SnapshotMetrics(self.registry, lambda: world.now)
        self.counted = CountedStore(self.store, self.registry)
        self.controller = SnapshotController(
            self.kube,
            self.counted,
            SANDBOX_API,
            self.metrics,
            recorder=self.recorder,
            lease_namespace=LEASE_NAMESPACE,
            policy=world.policy,
            clock=lambda: world.now,
        )

    def executor(self) -> Executor:
        return Executor(self.kube, self.store, self.metrics, None, VERSION)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.controller.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let the controller work, the agents answer, until something holds."""
        while not holds():
            self.world.run_agents()
            await asyncio.sleep(0.01)

    def renew(self, node: str) -> None:
        body = {
            "metadata": {"name": names.agent_lease(node), "namespace": LEASE_NAMESPACE},
            "spec": {"holderIdentity": node, "leaseDurationSeconds": 3600},
        }
        self.kube.cluster.create(LEASES, body)


@pytest.fixture
def rig() -> Rig:
    rig = Rig(make_world("node-a", "node-b"))
    for node in ("node-a", "node-b"):
        rig.renew(node)
    return rig


def _is_ready(world: World) -> bool:
    status = world.snapshot.status
    return (
        status is not None
        and status.phase is SnapshotPhase.READY
        and status.ready_node_count == status.target_node_count
    )


def _is_rebuilt(world: World, old: str) -> bool:
    """The manifest gives the old set up before the status says so."""
    active = world.manifest.active
    return active is not None and active.snapshot_key != old and _is_ready(world)


async def _at_rest(rig: Rig) -> None:
    await rig.until(lambda: _is_ready(rig.world) and not rig.world.sandboxes)
    await asyncio.sleep(1.2)  # an answer to the last of its own writes


async def test_a_snapshot_is_built_and_told(rig: Rig) -> None:
    async with rig.running():
        await rig.until(lambda: _is_ready(rig.world))
    assert rig.recorder.seen == [
        ("Normal", "SandboxSnapshotCreating"),
        ("Normal", "SandboxSnapshotReady"),
    ]


async def test_what_is_built_shows_in_the_metrics(rig: Rig) -> None:
    """Defect 51."""
    async with rig.running():
        await _at_rest(rig)
        about = {"namespace": NAMESPACE, "snapshot": "python-ready"}
        assert rig.value("agentcube_sandbox_snapshot_target_node_count", **about) == 2
        assert rig.value("agentcube_sandbox_snapshot_ready_node_count", **about) == 2
        assert rig.value("agentcube_sandbox_snapshot_artifacts", phase="Ready") == 2
        old = rig.world.active.snapshot_key
        rig.world.edit_template("registry.example/picod:2")
        await rig.until(lambda: _is_rebuilt(rig.world, old))
        pending = "agentcube_snapshot_physical_artifacts_pending_deletion"
        await rig.until(lambda: rig.value(pending) == 2)
    took = "agentcube_sandbox_snapshot_build_duration_seconds_count"
    assert rig.value(took, provider="snapstart.qemu.org", mode="Fork") == 4
    assert rig.value("agentcube_snapshot_build_task_total", phase="Creating") == 4
    assert rig.value("agentcube_snapshot_build_task_total", phase="Ready") == 4
    assert rig.value("agentcube_sandbox_snapshot_rebuild_total", reason="source_change") == 1
    removed = "agentcube_snapshot_artifact_record_removed_total"
    assert rig.value(removed, reason="source_change") == 2
    assert rig.value("agentcube_sandbox_snapshot_artifacts", phase="Ready") == 0  # leads no more


async def test_a_source_that_changes_is_noticed(rig: Rig) -> None:
    async with rig.running():
        await _at_rest(rig)
        old = rig.world.active.snapshot_key
        rig.world.edit_template("registry.example/picod:2")
        await rig.until(lambda: _is_rebuilt(rig.world, old))


async def test_a_node_that_comes_is_noticed(rig: Rig) -> None:
    async with rig.running():
        await _at_rest(rig)
        rig.renew("node-c")
        rig.world.add_node("node-c")
        await rig.until(lambda: rig.world.status.ready_node_count == 3)


async def test_an_agent_that_falls_silent_is_noticed(rig: Rig) -> None:
    async with rig.running():
        await _at_rest(rig)
        rig.kube.cluster.delete(LEASES, names.agent_lease("node-b"), namespace=LEASE_NAMESPACE)
        await rig.until(lambda: rig.world.status.unavailable_node_count == 1)


async def test_a_node_that_concerns_nobody_wakes_nobody(rig: Rig) -> None:
    """Defect 52."""
    async with rig.running():
        await _at_rest(rig)
        before = rig.controller.reconciles
        rig.world.add_node("node-z", provider="another.example.org")
        rig.world.cluster.merge(NODES, "node-a", {"metadata": {"annotations": {"beat": "1"}}})
        await asyncio.sleep(0.8)
        assert rig.controller.reconciles == before
        rig.world.patch_node("node-a", {"unschedulable": True})
        await rig.until(lambda: rig.controller.reconciles > before)


async def test_a_store_that_is_away_changes_nothing(rig: Rig) -> None:
    async with rig.running():
        await _at_rest(rig)
        status, writes = rig.world.snapshot.status, rig.kube.writes
        rig.world.store.set_down(True)
        rig.world.edit_template("registry.example/picod:2")
        failed = "agentcube_snapshot_store_errors_total"
        await rig.until(lambda: rig.value(failed, op="get") >= 2)
        assert rig.world.snapshot.status == status
        assert rig.kube.writes == writes
        rig.world.store.set_down(False)
        await rig.until(lambda: rig.world.manifest.rebuild_seq == 2 and _is_ready(rig.world))


async def test_an_api_server_that_is_away_is_waited_for(rig: Rig) -> None:
    async with rig.running():
        await _at_rest(rig)
        rig.kube.partition()
        rig.world.edit_template("registry.example/picod:2")
        await asyncio.sleep(0.3)
        rig.kube.heal()
        await rig.until(lambda: rig.world.manifest.rebuild_seq == 2 and _is_ready(rig.world))


async def test_a_snapshot_that_is_deleted_goes_with_all_it_has() -> None:
    from controlplane.snapshots.policy import Policy

    world = make_world("node-a", policy=Policy(deletion_grace_s=0))
    rig = Rig(world)
    rig.renew("node-a")
    async with rig.running():
        await rig.until(lambda: _is_ready(world))
        world.delete_snapshot()
        await rig.until(lambda: not world.exists)
    assert not world.agents.artifacts
    assert not world.store.texts


async def test_an_undecodable_snapshot_harms_nobody_else(rig: Rig) -> None:
    rig.kube.cluster.create(
        SNAPSHOTS, {"metadata": {"name": "odd", "namespace": NAMESPACE}, "spec": {"x": 1}}
    )
    async with rig.running():
        await rig.until(lambda: _is_ready(rig.world))


async def test_a_build_sandbox_without_its_owner_is_found_by_its_label(rig: Rig) -> None:
    rig.world.agents.idle = {"node-a", "node-b"}
    async with rig.running():
        await rig.until(lambda: len(rig.world.sandboxes) == 2)
        sandbox: Sandbox = rig.world.sandboxes[0]
        body = {
            "metadata": {
                "name": "stray",
                "namespace": NAMESPACE,
                "labels": {names.SNAPSHOT_UID: sandbox.metadata.label(names.SNAPSHOT_UID)},
            }
        }
        rig.kube.cluster.create(VERSION.sandboxes, body)
        await rig.until(lambda: "stray" not in {s.metadata.name for s in rig.world.sandboxes})


# The executor


async def _steps(rig: Rig) -> Plan:
    rig.world.reconcile()
    return rig.world.plan()


async def test_the_first_step_that_fails_ends_the_run(rig: Rig) -> None:
    plan = await _steps(rig)
    rig.world.store.fail_next("put", StoreFault.CONFLICT)
    with pytest.raises(ConflictError):
        await rig.executor().perform(plan, rig.world.snapshot)
    assert not rig.world.tasks
    assert rig.world.snapshot.status is None


async def test_what_is_there_already_needs_no_making(rig: Rig) -> None:
    plan = await _steps(rig)
    creations = tuple(one for one in plan.steps if isinstance(one, CreateTask))
    await rig.executor().perform(Plan(creations), rig.world.snapshot)
    await rig.executor().perform(Plan(creations), rig.world.snapshot)
    assert len(rig.world.tasks) == 2


async def test_a_status_is_written_only_onto_what_was_observed(rig: Rig) -> None:
    plan = await _steps(rig)
    snapshot = rig.world.snapshot
    rig.world.patch_snapshot({"metadata": {"labels": {"x": "y"}}})
    status = tuple(one for one in plan.steps if isinstance(one, WriteStatus))
    with pytest.raises(ConflictError):
        await rig.executor().perform(Plan(status), snapshot)


async def test_a_step_that_cannot_be_asked_for_is_not_repeated(rig: Rig) -> None:
    plan = await _steps(rig)
    rig.kube.fail_next("create", UnavailableError("away"), resource=TASKS)
    with pytest.raises(UnavailableError):
        await rig.executor().perform(plan, rig.world.snapshot)
    assert rig.kube.counts["create", "sandboxsnapshottasks"] == 1
    assert rig.world.manifest.pending is not None


async def test_events_may_be_left_out(rig: Rig) -> None:
    """The recorder is optional."""
    steps = (EmitEvent("X", "y"), Count(Metric.REBUILDS, ("force",)))
    await rig.executor().perform(Plan(steps), rig.world.snapshot)
    assert rig.value("agentcube_sandbox_snapshot_rebuild_total", reason="force") == 1


async def test_a_put_names_its_snapshot_by_uid(rig: Rig) -> None:
    plan = await _steps(rig)
    puts = tuple(one for one in plan.steps if isinstance(one, PutManifest))
    await rig.executor().perform(Plan(puts), rig.world.snapshot)
    assert list(rig.world.store.texts) == [str(rig.world.key)]
