"""Compose production code as its programs do, on the simulated network."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Any, Final, Protocol

from agentd.node.provider_labels import ProviderLabels
from agentd.node.sweep import EVERY_S, Sweep
from agentd.node.task_look import Place as TaskPlace
from agentd.node.tasks import TaskReconciler
from controlplane.api import names
from controlplane.api.core import SandboxTemplate
from controlplane.api.manifest import Manifest
from controlplane.api.meta import OwnerReference
from controlplane.api.types import (
    SandboxSnapshot,
    SandboxSnapshotStatus,
    SandboxSnapshotTask,
    SnapshotClass,
)
from controlplane.errors import ControlPlaneError
from controlplane.kube.events import ObjectRef
from controlplane.kube.informer import Informer
from controlplane.kube.lease import Clocks, LeaseHolder
from controlplane.kube.leases import LeaseName
from controlplane.kube.resource import NODES, SNAPSHOT_CLASSES, SNAPSHOTS, TASKS
from controlplane.kube.sandboxes import SandboxApi, SandboxVersion
from controlplane.kube.workers import WorkQueue, run_workers
from controlplane.sessions.decision import Decision
from controlplane.sessions.index import SessionIndex
from controlplane.sessions.lookup import IntentSources, find_restore_intent
from controlplane.sessions.session import SessionStart
from controlplane.snapshots.controller import SnapshotController
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.steps import Count
from controlplane.store.breaker import BreakerStore
from tests.fakes.kube_cluster import FakeCluster
from tests.fakes.store import MemoryStore

from .clients import SimKube, SimStore, StoreAudit
from .driver import Host, Machine, ModelDriver
from .loop import Process, SimLoop
from .network import Network
from .truth import SANDBOXES, TEMPLATES

CLUSTER_UID: Final = "cluster-uid"
LEASES_IN: Final = "agentcube-system"
API: Final = SandboxApi(SandboxVersion.V1BETA1, SandboxVersion.V1BETA1)
# The production values are 10 s and 40 s: a simulated day would be renewals and nothing else.
LEASE_EVERY_S: Final = 600.0
LEASE_LASTS_S: Final = 1500
LABELS_EVERY_S: Final = 1200.0
_PAUSE_S: Final = 60.0
# Rechecks of what is at rest are stretched for the same reason.
POLICY: Final = Policy(
    recheck_problem_s=900.0,
    recheck_source_s=900.0,
    recheck_unready_s=600.0,
    recheck_store_s=3600.0,
    retired_grace_s=300.0,
    deletion_grace_s=60.0,
)


class Silent:
    """Counts what production code reports; a Recorder, a Tracer, metrics in one."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()

    def normal(self, about: ObjectRef, reason: str, message: str) -> None:
        """See EventRecorder."""
        self.events[reason] += 1

    def warning(self, about: ObjectRef, reason: str, message: str) -> None:
        """See EventRecorder."""
        self.events[reason] += 1

    def step(self, event: str, /, **details: str | int | float) -> None:
        """See Tracer."""

    def take(self, count: Count) -> None:
        """See SnapshotMetrics."""

    def show(
        self, key: tuple[str, str], status: SandboxSnapshotStatus | None, manifest: Manifest
    ) -> None:
        """See SnapshotMetrics."""

    def hide(self, key: tuple[str, str]) -> None:
        """See SnapshotMetrics."""

    def hide_all(self) -> None:
        """See SnapshotMetrics."""


class Stage(Host, StoreAudit, Protocol):
    """What a process is given."""

    loop: SimLoop
    random: Random
    network: Network
    cluster: FakeCluster
    memory: MemoryStore
    quiet: Silent

    @property
    def now(self) -> datetime:
        """UTC."""


class ControlPlane:
    """The leader: the production controller with its informers, queue, executor."""

    def __init__(self, stage: Stage, number: int, policy: Policy = POLICY) -> None:
        self.process = Process(f"leader-{number}")
        self.kube = SimKube(stage.network, stage.cluster, self.process)
        store = SimStore(stage.network, stage.memory, self.process, stage)
        metrics: Any = stage.quiet
        self.controller = SnapshotController(
            self.kube,
            store,
            API,
            metrics,
            recorder=stage.quiet,
            lease_namespace=LEASES_IN,
            policy=policy,
            clock=lambda: stage.now,
        )
        stage.loop.start(self.process, self.controller.run())


class Admission:
    """A replica's session path: the production index, fed by informers, and the lookup."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.process = Process(f"admission-{number}")
        self.kube = SimKube(stage.network, stage.cluster, self.process)
        store = SimStore(stage.network, stage.memory, self.process, stage)
        guarded = BreakerStore(store, stage.loop.time)
        self.index = SessionIndex()
        self._going: set[tuple[str, str]] = set()
        self._sources = IntentSources(self.index, guarded)
        self._loop = stage.loop
        stage.loop.start(self.process, self._run())

    async def _run(self) -> None:
        index = self.index
        snapshots = Informer(self.kube, SNAPSHOTS, SandboxSnapshot)
        templates = Informer(self.kube, TEMPLATES, SandboxTemplate)
        classes = Informer(self.kube, SNAPSHOT_CLASSES, SnapshotClass)
        snapshots.add_handler(_into(index.put_snapshot, index.drop_snapshot))
        snapshots.add_handler(self._note)
        templates.add_handler(_into(index.put_template, index.drop_template))
        classes.add_handler(_into(index.put_class, lambda _, name: index.drop_class(name)))
        for informer in (snapshots, templates, classes):
            informer.start()
        await asyncio.Event().wait()

    @property
    def going(self) -> frozenset[tuple[str, str]]:
        """The snapshots of which this replica has seen that somebody deletes them."""
        return frozenset(self._going)

    def _note(self, old: Any, new: Any) -> None:
        meta = (new or old).metadata
        self._going.discard((meta.namespace, meta.name))
        if new is not None and new.metadata.is_terminating:
            self._going.add((meta.namespace, meta.name))

    def ask(self, session: SessionStart, told: Callable[[Decision], None]) -> None:
        """Look a session up; the answer comes later, or never if this process dies."""

        async def look_up() -> None:
            told(await find_restore_intent(self._sources, session))

        self._loop.start(self.process, look_up())


def _into(put: Callable[[Any], None], drop: Callable[[str, str], None]) -> Callable[..., None]:
    def handler(old: Any, new: Any) -> None:
        if new is not None:
            put(new)
        else:
            drop(old.metadata.namespace, old.metadata.name)

    return handler


class Agent:
    """One node's agent: the production task reconciler, sweep, labels, Lease; a model driver."""

    def __init__(self, stage: Stage, machine: Machine, number: int) -> None:
        self.process = Process(f"agent-{machine.name}-{number}")
        self.machine = machine
        machine.creating.clear()
        self._stage = stage
        self.kube = SimKube(stage.network, stage.cluster, self.process)
        self._drivers = {
            provider: ModelDriver(provider, machine, self.process, stage.network, stage)
            for provider in sorted(machine.providers)
        }
        stage.loop.start(self.process, self._run())

    async def _run(self) -> None:
        while True:
            try:
                await self._work()
            except ControlPlaneError:
                await asyncio.sleep(_PAUSE_S)

    async def _work(self) -> None:
        stage, name, quiet = self._stage, self.machine.name, self._stage.quiet
        node = await self.kube.get(NODES, name)
        owner = OwnerReference(
            api_version="v1", kind="Node", name=name, uid=str(node["metadata"]["uid"])
        )
        lease = LeaseHolder(
            self.kube,
            LeaseName(LEASES_IN, names.agent_lease(name), name),
            interval_s=LEASE_EVERY_S,
            duration_s=LEASE_LASTS_S,
            owners=(owner,),
            clocks=Clocks(stage.loop.time, lambda: stage.now),
            random=stage.random,
        )
        lease.start()
        fields = f"spec.targetNodeName={name}"
        informer = Informer(self.kube, TASKS, SandboxSnapshotTask, fields=fields)
        queue: WorkQueue[tuple[str, str]] = WorkQueue()
        informer.add_handler(_feed(queue))
        drivers: Any = self._drivers
        events: Any = quiet
        place = TaskPlace(name, CLUSTER_UID, SANDBOXES)
        reconciler = TaskReconciler(
            self.kube, informer, queue, drivers, place, events, quiet, lambda: stage.now
        )
        informer.start()
        labels = ProviderLabels(self.kube, drivers, name, quiet, stage.loop.time)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._advertise(labels))
            group.create_task(self._sweep(drivers))
            group.create_task(run_workers(queue, reconciler.reconcile, 1, name="tasks"))

    async def _advertise(self, labels: ProviderLabels) -> None:
        while True:
            try:
                await labels.refresh()
                delay_s = LABELS_EVERY_S
            except ControlPlaneError:
                delay_s = 20.0
            await asyncio.sleep(delay_s)

    async def _sweep(self, drivers: Any) -> None:
        stage = self._stage
        sweep = Sweep(self.kube, drivers, CLUSTER_UID, stage.quiet, lambda: stage.now)
        while True:
            await asyncio.sleep(EVERY_S)
            await sweep.run()


def _feed(queue: WorkQueue[tuple[str, str]]) -> Callable[..., None]:
    def handler(old: Any, new: Any) -> None:
        found = new or old
        queue.add((found.metadata.namespace, found.metadata.name))

    return handler
