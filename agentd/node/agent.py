"""Run this machine's part in a cluster.

Nothing here is needed by local sessions: the API server may be away for as long as it likes, and
machines run on. `run` begins anew, after a pause, whatever goes wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

from agentd.engine.engine import Engine
from agentd.engine.trace import Tracer
from agentd.errors import SnapStartError
from agentd.health import Health, PartState
from agentd.image.store import list_images
from agentd.node.addresses import Addresses, parse_network
from agentd.node.forwarders import Forwarders
from agentd.node.host_facts import find_facts
from agentd.node.pod_spec import Bounds
from agentd.node.pod_start import PodHost
from agentd.node.pod_types import Pod
from agentd.node.pods import WORKERS, PodKeeper
from agentd.node.provider_labels import ProviderLabels
from agentd.node.sweep import EVERY_S, Sweep
from agentd.node.task_look import Place
from agentd.node.tasks import TaskReconciler
from agentd.node.virtual_node import LOOK_S, VirtualNode
from agentd.node.work import Work
from agentd.providers.driver import SnapshotDriver
from agentd.providers.local import PROVIDERS, LocalDriver
from agentd.settings import Settings
from controlplane.api import names
from controlplane.api.meta import OwnerReference
from controlplane.api.types import SandboxSnapshotTask
from controlplane.errors import ConflictError, ControlPlaneError
from controlplane.kube.api import KubeApi
from controlplane.kube.cache import Named
from controlplane.kube.client import open_kube
from controlplane.kube.connect import KubeSettings
from controlplane.kube.informer import Informer
from controlplane.kube.lease import LeaseHolder
from controlplane.kube.leases import LeaseName
from controlplane.kube.recorder import EventRecorder
from controlplane.kube.resource import NAMESPACES, NODES, PODS, TASKS, sandboxes
from controlplane.kube.workers import WorkQueue, run_workers

if TYPE_CHECKING:
    from agentd.node.kuasar_part import KuasarPart

Key = tuple[str, str]
CLUSTER: Final = "cluster"
_PAUSE_S: Final = 5.0
_TASK_WORKERS: Final = 4
_WITHDRAW_S: Final = 3.0
_NODE_LEASES: Final = "kube-node-lease"


@dataclass(frozen=True)
class Outside:
    """What an agent works with.

    connect: opens the API server, which the agent closes. now: UTC. look_s: between looks at
    whether the Node still is the same one. health: told of the cluster. environ: of the process.
    """

    settings: Settings
    engine: Engine
    tracer: Tracer
    connect: Callable[[], AbstractAsyncContextManager[KubeApi]]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    look_s: float = LOOK_S
    health: Health = field(default_factory=Health)
    environ: Mapping[str, str] = field(default_factory=dict)


class NodeAgent:
    """Owns everything that talks to the cluster; cancelling `run` releases all of it."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._settings = outside.settings
        self._engine = outside.engine
        self._tracer = outside.tracer
        self._name = outside.settings.node.name
        self._driver = LocalDriver(
            outside.engine, self._has_image, PROVIDERS[self._settings.monitor.kind]
        )
        self._addresses = Addresses(parse_network(self._settings.node.pod_cidr))
        self._forwarders = Forwarders(self._engine, self._addresses, self._tracer)
        self._kuasar: KuasarPart | None = None
        # Elsewhere the Pods are a kubelet's, whose machines are not this engine's to snapshot.
        self._drivers: dict[str, SnapshotDriver] = (
            {self._driver.name: self._driver} if self._settings.node.virtual else {}
        )

    def _open_kuasar(self) -> None:
        """Once. Raises: SnapStartError when its ledger cannot be opened; tried again then."""
        if self._settings.kuasar.enabled and self._kuasar is None:
            self._kuasar = _make_kuasar(self._outside)
            self._drivers[self._kuasar.driver.name] = self._kuasar.driver

    def _has_image(self) -> bool:
        return bool(self._settings.node.images or list_images(self._settings.image_cache_dir))

    async def run(self) -> None:
        """Work for the cluster until cancelled, which leaves sessions running."""
        try:
            while True:
                await self._forwarders.serve_adopted()
                await self._attempt()
                await asyncio.sleep(_PAUSE_S)
        finally:
            await self._forwarders.close()
            if self._kuasar is not None:
                await self._kuasar.close()

    async def _attempt(self) -> None:
        try:
            async with self._outside.connect() as kube:
                await self._work(kube)
        except* Exception as group:
            for exc in group.exceptions:
                self._tracer.step("node.failed", node=self._name, error=str(exc))

    async def _work(self, kube: KubeApi) -> None:
        self._open_kuasar()
        cluster = str((await kube.get(NAMESPACES, "kube-system"))["metadata"]["uid"])
        version = await kube.preferred_version(names.SANDBOX_GROUP)
        place = Place(self._name, cluster, sandboxes(version))
        async with AsyncExitStack() as down:
            events = EventRecorder(kube, component="snapstart-agentd", instance=self._name)
            events.start()
            down.push_async_callback(events.stop)
            work = Work(kube, place, events, down)
            work.jobs["node-sweep"] = lambda: self._sweep(kube, cluster)
            node_uid = await self._register(work)
            self._hold_leases(kube, node_uid, down)
            work.jobs["node-identity"] = lambda: self._watch_identity(kube, node_uid)
            if self._settings.node.virtual:
                await self._keep_pods(work)
            if self._kuasar is not None:
                await self._kuasar.join(work)
            self._do_tasks(work)
            self._advertise(work)
            self._tracer.step("node.ready", node=self._name, cluster=cluster)
            async with asyncio.TaskGroup() as group:
                for name, job in work.jobs.items():
                    group.create_task(job(), name=name)

    async def _register(self, work: Work) -> str:
        """Returns: the UID of the Node, which owns what is made for it."""
        kube = work.kube
        if not self._settings.node.virtual:
            return str((await kube.get(NODES, self._name))["metadata"]["uid"])
        facts = find_facts(self._settings, self._engine, self._name)
        node = VirtualNode(kube, facts, self._problem, self._tracer, self._outside.now)
        uid = await node.register()
        work.jobs["virtual-node"] = node.run
        return uid

    async def _problem(self) -> str:
        try:
            await asyncio.to_thread(self._engine.check_monitor)
        except SnapStartError as exc:
            return str(exc)
        return ""

    async def _watch_identity(self, kube: KubeApi, node_uid: str) -> None:
        """End the work when the Node is another one: its Leases' owner is gone, they with it."""
        while True:
            await asyncio.sleep(self._outside.look_s)
            try:
                node = await kube.get(NODES, self._name)
            except ControlPlaneError:
                continue
            if node["metadata"]["uid"] != node_uid:
                raise ConflictError(
                    f"working as Node {self._name!r}: it was registered anew, beginning again"
                )

    def _hold_leases(self, kube: KubeApi, node_uid: str, down: AsyncExitStack) -> None:
        owner = OwnerReference(
            api_version=NODES.api_version, kind=NODES.kind, name=self._name, uid=node_uid
        )
        agent = LeaseName(self._settings.node.namespace, names.agent_lease(self._name), self._name)
        wanted = [agent]
        if self._settings.node.virtual:
            wanted.append(LeaseName(_NODE_LEASES, self._name, self._name))
        for name in wanted:
            lease = LeaseHolder(kube, name, owners=(owner,))
            if name is agent:
                self._outside.health.add(CLUSTER, partial(_state_of, lease))
            lease.start()
            down.push_async_callback(lease.stop)

    async def _keep_pods(self, work: Work) -> None:
        kube, down = work.kube, work.down
        informer = Informer(kube, PODS, Pod, fields=f"spec.nodeName={self._name}")
        queue: WorkQueue[Key] = WorkQueue()
        informer.add_handler(_feed(queue))
        host = self._pod_host(work)
        keeper = PodKeeper(host, informer, queue, self._bounds())
        informer.start()
        down.push_async_callback(informer.stop)
        down.push_async_callback(keeper.close)
        await informer.wait_synced()
        await keeper.begin()
        work.jobs["pods"] = lambda: run_workers(queue, keeper.reconcile, WORKERS, name="pods")

    def _pod_host(self, work: Work) -> PodHost:
        settings = self._settings
        facts = find_facts(settings, self._engine, self._name)
        return PodHost(
            kube=work.kube,
            engine=self._engine,
            driver=self._driver,
            addresses=self._addresses,
            forwarders=self._forwarders,
            events=work.events,
            tracer=self._tracer,
            cluster=work.place.cluster,
            host_ip=facts.address,
            sandboxes=work.place.sandboxes,
            images=settings.node.images,
            image_cache_dir=settings.image_cache_dir,
            now=self._outside.now,
        )

    def _bounds(self) -> Bounds:
        shape = self._settings.machines
        return Bounds(shape.memory_mib, shape.vcpus, shape.max_memory_mib, shape.max_vcpus)

    def _do_tasks(self, work: Work) -> None:
        fields = f"spec.targetNodeName={self._name}"
        informer = Informer(work.kube, TASKS, SandboxSnapshotTask, fields=fields)
        queue: WorkQueue[Key] = WorkQueue()
        informer.add_handler(_feed(queue))
        reconciler = TaskReconciler(
            work.kube,
            informer,
            queue,
            self._drivers,
            work.place,
            work.events,
            self._tracer,
            self._outside.now,
        )
        informer.start()
        work.down.push_async_callback(informer.stop)
        work.down.push_async_callback(reconciler.close)
        work.jobs["tasks"] = lambda: run_workers(
            queue, reconciler.reconcile, _TASK_WORKERS, name="tasks"
        )

    def _advertise(self, work: Work) -> None:
        labels = ProviderLabels(work.kube, self._drivers, self._name, self._tracer)

        async def withdraw() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WITHDRAW_S):
                    await labels.withdraw()

        work.down.push_async_callback(withdraw)
        work.jobs["provider-labels"] = labels.run

    async def _sweep(self, kube: KubeApi, cluster: str) -> None:
        sweep = Sweep(kube, self._drivers, cluster, self._tracer, self._outside.now)
        while True:
            await asyncio.sleep(EVERY_S)
            await sweep.run()


def _make_kuasar(outside: Outside) -> KuasarPart:
    """Imported only here: most nodes have no such sandboxer, and pay for no gRPC."""
    from agentd.node.kuasar_part import KuasarPart

    return KuasarPart(
        outside.settings, outside.environ, outside.tracer, outside.now, outside.health
    )


def _feed(queue: WorkQueue[Key]) -> Callable[[Named | None, Named | None], None]:
    def handler(old: Named | None, new: Named | None) -> None:
        found = new or old
        assert found is not None
        queue.add((found.metadata.namespace, found.metadata.name))

    return handler


def _state_of(lease: LeaseHolder) -> PartState:
    """Whether the cluster sees us alive."""
    if lease.is_current:
        return PartState(True, "its Lease is renewed")
    return PartState(False, f"its Lease is not renewed: {lease.last_error or 'never was'}")


async def run_agent(
    settings: Settings,
    engine: Engine,
    tracer: Tracer,
    environ: Mapping[str, str],
    health: Health,
) -> None:
    """The agent of a daemon, on the API server that the settings name."""
    kube = KubeSettings(kubeconfig=settings.node.kubeconfig, user_agent="snapstart-agentd")

    @asynccontextmanager
    async def connect() -> AsyncIterator[KubeApi]:
        async with await open_kube(kube, environ=environ) as client:
            yield client

    outside = Outside(settings, engine, tracer, connect, health=health, environ=environ)
    await NodeAgent(outside).run()
