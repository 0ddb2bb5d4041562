"""The snapshot controller, with the rights that its role grants, against real API servers.

The agents are stand-ins here: they answer every task as done, nothing is snapshotted.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from controlplane.api import names
from controlplane.api.crds import DIRECTORY
from controlplane.kube.client import open_kube
from controlplane.kube.connect import KubeSettings
from controlplane.kube.recorder import EventRecorder
from controlplane.kube.sandboxes import discover_sandboxes
from controlplane.snapshots.controller import SnapshotController
from controlplane.snapshots.metrics import SnapshotMetrics
from controlplane.snapshots.policy import Policy
from controlplane.store.sqlite import SqliteStore
from controlplane.store.store import OwnerKey
from tests.kube.api import Object
from tests.kube.cluster import Cluster
from tests.kube.manifests import load
from tests.kube.objects import fake_node, fresh_namespace, heartbeat

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

NAMESPACE = "agentcube-system"
KUBERNETES = DIRECTORY.parent / "kubernetes"
GROUP = f"/apis/{names.API_VERSION}"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
MERGE = "application/merge-patch+json"


class World:
    """One snapshot with a class, a template, nodes of its own in a real cluster."""

    def __init__(self, cluster: Cluster, version: str, namespace: str, nodes: list[str]) -> None:
        self.cluster = cluster
        self.nodes = nodes
        self.provider = f"p{uuid.uuid4().hex[:8]}.example.org"
        self.tasks_path = f"{GROUP}/namespaces/{namespace}/sandboxsnapshottasks"
        self.path = f"{GROUP}/namespaces/{namespace}/sandboxsnapshots/python"
        self.sandboxes = f"/apis/agents.x-k8s.io/{version}/namespaces/{namespace}/sandboxes"
        templates = f"/apis/extensions.agents.x-k8s.io/{version}/namespaces/{namespace}"
        self.template_path = f"{templates}/sandboxtemplates/python"
        self.events_path = f"/api/v1/namespaces/{namespace}/events"
        for node in nodes:
            self._add_agent(node)
        cluster.apply(self._objects(version, namespace))

    def get(self) -> Object:
        return self.cluster.api.get(self.path)

    @property
    def status(self) -> Object:
        found: Object = self.get().get("status") or {}
        return found

    def items(self, path: str) -> list[Object]:
        found: list[Object] = self.cluster.api.get(path)["items"]
        return found

    def answer_tasks(self) -> None:
        """Say of every task that it is done."""
        at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        for task in self.items(self.tasks_path):
            if not task.get("status"):
                path = f"{self.tasks_path}/{task['metadata']['name']}/status"
                status = {"status": {"phase": "Ready", "observedAt": at}}
                self.cluster.api.call("PATCH", path, status, content_type=MERGE)

    async def until(self, what: str, is_so: Callable[[], object]) -> None:
        """Poll, answering tasks, without holding up the controller."""

        def look() -> bool:
            self.answer_tasks()
            for node in self.nodes:
                heartbeat(self.cluster, node)
            return bool(is_so())

        await asyncio.to_thread(self.cluster.wait_for, what, look, deadline_s=60)

    def ready_nodes(self) -> int:
        status = self.status
        return int(status.get("readyNodeCount", 0)) if status.get("phase") == "Ready" else 0

    def _add_agent(self, node: str) -> None:
        labels = {"metadata": {"labels": {names.provider_label(self.provider): "true"}}}
        self.cluster.api.call("PATCH", f"/api/v1/nodes/{node}", labels, content_type=MERGE)
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": names.agent_lease(node), "namespace": NAMESPACE},
            "spec": {"holderIdentity": node, "leaseDurationSeconds": 3600},
        }
        self.cluster.api.call("POST", LEASES, lease)

    def _objects(self, version: str, namespace: str) -> list[Object]:
        spec = {"containers": [{"name": "code", "image": "registry.example/picod:1"}]}
        source = {
            "apiGroup": names.EXTENSIONS_GROUP,
            "kind": "SandboxTemplate",
            "name": "python",
        }
        return [
            {
                "apiVersion": names.API_VERSION,
                "kind": "SnapshotClass",
                "metadata": {"name": self.provider},
                "spec": {"providerName": self.provider, "supportedSnapshotModes": ["Fork"]},
            },
            {
                "apiVersion": f"{names.EXTENSIONS_GROUP}/{version}",
                "kind": "SandboxTemplate",
                "metadata": {"name": "python", "namespace": namespace},
                "spec": {"podTemplate": {"spec": spec}},
            },
            {
                "apiVersion": names.API_VERSION,
                "kind": "SandboxSnapshot",
                "metadata": {"name": "python", "namespace": namespace},
                "spec": {
                    "snapshotMode": "Fork",
                    "sourceRef": source,
                    "snapshotClassName": self.provider,
                },
            },
        ]


@asynccontextmanager
async def controlling(kubeconfig: Path, store: SqliteStore) -> AsyncIterator[SnapshotController]:
    """The controller, at work."""
    async with await open_kube(KubeSettings(kubeconfig=str(kubeconfig))) as api:
        recorder = EventRecorder(api, component="snapstart-controlplane", instance="test")
        recorder.start()
        controller = SnapshotController(
            api,
            store,
            await discover_sandboxes(api),
            SnapshotMetrics(CollectorRegistry(), lambda: datetime.now(UTC)),
            recorder=recorder,
            lease_namespace=NAMESPACE,
            policy=Policy(deletion_grace_s=0.0, retired_grace_s=2.0, retention_s=1.0),
        )
        task = asyncio.create_task(controller.run())
        try:
            yield controller
        finally:
            task.cancel()
            await asyncio.wait([task])
            await recorder.stop()
            assert task.cancelled(), task.exception()


@pytest.fixture
def kubeconfig(sandbox_cluster: Cluster) -> Path:
    for name in ("namespace", "rbac-controlplane"):
        sandbox_cluster.apply(load(KUBERNETES / f"{name}.yaml"))
    return sandbox_cluster.kubeconfig_for_account(NAMESPACE, "snapstart-controlplane")


@pytest.fixture
def world(
    sandbox_cluster: Cluster, kubeconfig: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    version: str = request.node.callspec.params["sandbox_cluster"]
    with ExitStack() as stack:
        nodes = [stack.enter_context(fake_node(sandbox_cluster)) for _ in range(2)]
        namespace = stack.enter_context(fresh_namespace(sandbox_cluster))
        yield World(sandbox_cluster, version, namespace, nodes)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    found = SqliteStore(tmp_path / "artifacts.db")
    yield found
    await found.close()


async def test_a_snapshot_lives_from_its_creation_to_its_deletion(
    world: World, kubeconfig: Path, store: SqliteStore
) -> None:
    async with controlling(kubeconfig, store) as controller:
        await world.until("built on both nodes", lambda: world.ready_nodes() == 2)
        await world.until("nothing left of the build", lambda: _is_clean(world))
        await _check_rest(world, controller)
        old = _ready_at(world)
        pod = {"containers": [{"name": "code", "image": "registry.example/picod:2"}]}
        patch = {"spec": {"podTemplate": {"spec": pod}}}
        world.cluster.api.call("PATCH", world.template_path, patch, content_type=MERGE)
        key = await _owner(world)
        await world.until("rebuilt", lambda: world.ready_nodes() == 2 and _ready_at(world) != old)
        await world.until("nothing left of that", lambda: _is_clean(world))
        stored = await store.get(key)
        assert stored is not None
        assert stored.manifest.rebuild_seq == 2
        world.cluster.api.delete(world.path)
        await world.until("gone", lambda: not world.items(world.path.rpartition("/")[0]))
        assert await store.get(key) is None
    told = {event["reason"] for event in world.items(world.events_path)}
    assert {"SandboxSnapshotCreating", "SandboxSnapshotReady", "SandboxSnapshotRebuilding"} <= told


def _ready_at(world: World) -> str:
    return str(world.status.get("readyAt"))


def _is_clean(world: World) -> bool:
    return not world.items(world.tasks_path) and not world.items(world.sandboxes)


async def _check_rest(world: World, controller: SnapshotController) -> None:
    """Nothing is written when nothing changes; what was under way may end first."""
    known = await _known(world, controller)
    for _ in range(5):
        await asyncio.sleep(2)
        before, known = known, await _known(world, controller)
        if known == before:
            return
    raise AssertionError(f"it goes on writing: {before}, {known}")


async def _known(world: World, controller: SnapshotController) -> tuple[str, int]:
    meta = (await asyncio.to_thread(world.get))["metadata"]
    return meta["resourceVersion"], controller.reconciles


async def _owner(world: World) -> OwnerKey:
    meta: dict[str, Any] = (await asyncio.to_thread(world.get))["metadata"]
    return OwnerKey(meta["namespace"], meta["name"], meta["uid"])
