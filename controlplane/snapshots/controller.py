"""Reconcile SandboxSnapshots: observe, plan, perform."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from agentd.tracing import Sink
from controlplane.api.core import Node
from controlplane.api.manifest import Artifact, Manifest
from controlplane.api.types import SandboxSnapshot
from controlplane.errors import CorruptError
from controlplane.kube.api import KubeApi
from controlplane.kube.sandboxes import SandboxApi
from controlplane.kube.workers import WorkQueue, run_workers
from controlplane.snapshots.draft import artifacts_of
from controlplane.snapshots.executor import Executor, Recorder, Trace, owner_key
from controlplane.snapshots.interest import Key
from controlplane.snapshots.metrics import SnapshotMetrics
from controlplane.snapshots.observed import NoManifest, Observed
from controlplane.snapshots.plan import plan_snapshot
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.traced import build_span
from controlplane.snapshots.watching import Watching
from controlplane.store.store import ArtifactStore, Stored

_WORKERS: Final = 4


class SnapshotController:
    """Runs in the leading control plane alone: it is the only writer of manifests.

    Args: recorder: None writes no events. lease_namespace: where agents renew their Leases.
    clock: UTC. sink: takes spans; None where nobody traces.
    """

    def __init__(
        self,
        api: KubeApi,
        store: ArtifactStore,
        sandbox_api: SandboxApi,
        metrics: SnapshotMetrics,
        *,
        recorder: Recorder | None,
        lease_namespace: str,
        policy: Policy | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sink: Sink | None = None,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._policy = policy or Policy()
        self._clock = clock
        self._queue: WorkQueue[Key] = WorkQueue()
        self._watching = Watching(api, sandbox_api, lease_namespace, self._queue)
        trace = None if sink is None else self._tracer(sink)
        self._executor = Executor(api, store, metrics, recorder, sandbox_api.version, trace)
        self._refused: dict[Key, dict[str, str]] = {}
        self.reconciles = 0

    def _tracer(self, sink: Sink) -> Trace:
        def trace(snapshot: SandboxSnapshot, artifact: Artifact) -> None:
            span = build_span(snapshot, artifact, self._clock())
            if span is not None:
                sink(span)

        return trace

    async def run(self) -> None:
        """Reconcile until cancelled."""
        try:
            async with self._watching.running():
                await run_workers(self._queue, self.reconcile, _WORKERS, name="snapshot")
        finally:
            self._metrics.hide_all()

    async def reconcile(self, key: Key) -> float | None:
        """One SandboxSnapshot; returns after how many seconds to look again.

        Raises: ControlPlaneError; what was done by then stays done: call again. A store that cannot
        be asked changes nothing, not even a status.
        """
        self.reconciles += 1
        namespace, name = key
        if self._watching.snapshots.get(name, namespace) is None:
            self._forget(key)
            return None
        found = self._watching.snapshots.get(name, namespace)
        assert found is not None
        stored = await self._read(found)
        snapshot = self._watching.snapshots.get(name, namespace)
        if snapshot is None or snapshot.metadata.uid != found.metadata.uid:
            return 0.0
        self._learn(key, snapshot, stored)
        now = self._clock()
        plan = plan_snapshot(self._observe(snapshot, stored), now)
        refused = await self._executor.perform(plan, snapshot)
        self._refused.pop(key, None)
        if refused:
            self._refused[key] = refused
            return self._policy.again_s
        if plan.requeue_at is None:
            return None
        return max(0.0, (plan.requeue_at - now).total_seconds())

    async def _read(self, snapshot: SandboxSnapshot) -> Stored | NoManifest:
        try:
            return await self._store.get(owner_key(snapshot)) or NoManifest.ABSENT
        except CorruptError:
            return NoManifest.CORRUPT

    def _learn(self, key: Key, snapshot: SandboxSnapshot, stored: Stored | NoManifest) -> None:
        manifest = stored.manifest if isinstance(stored, Stored) else Manifest()
        self._watching.holdings.learn(key, manifest)
        self._metrics.show(key, snapshot.status, manifest)

    def _forget(self, key: Key) -> None:
        self._watching.holdings.learn(key, None)
        self._metrics.hide(key)
        self._refused.pop(key, None)

    def _observe(self, snapshot: SandboxSnapshot, stored: Stored | NoManifest) -> Observed:
        """What the informers know now, in one go: nothing is awaited between here and the plan."""
        watching, meta = self._watching, snapshot.metadata
        manifest = stored.manifest if isinstance(stored, Stored) else Manifest()
        snapshot_class = watching.classes.get(snapshot.spec.snapshot_class_name)
        source = snapshot.spec.source_ref.name
        template = watching.templates.get(source, meta.namespace) if watching.templates else None
        pod_spec = template.spec.pod_template.spec if template else {}
        return Observed(
            snapshot=snapshot,
            snapshot_class=snapshot_class,
            template=template,
            runtime_class=watching.runtime_classes.get(str(pod_spec.get("runtimeClassName") or "")),
            nodes=self._nodes(
                snapshot_class.spec.provider_name if snapshot_class else "", manifest
            ),
            living_agents=watching.agents.living,
            busy_nodes=self._busy_nodes(meta.uid, manifest),
            tasks=watching.tasks.by_index("snapshot", meta.uid),
            sandboxes=watching.sandboxes.by_index("snapshot", meta.uid),
            stored=stored,
            refused=self._refused.get((meta.namespace, meta.name), {}),
            policy=self._policy,
        )

    def _nodes(self, provider_name: str, manifest: Manifest) -> dict[str, Node]:
        found = self._watching.nodes.by_index("provider", provider_name)
        nodes = {node.metadata.name: node for node in found}
        for one in (manifest.artifact_sets or {}).values():
            for artifact in artifacts_of(one):
                self._add_node(nodes, artifact.node_name)
        for retired in manifest.retired_sets or ():
            for name in retired.node_names or ():
                self._add_node(nodes, name)
        return nodes

    def _add_node(self, nodes: dict[str, Node], name: str) -> None:
        if name not in nodes:
            node = self._watching.nodes.get(name)
            if node is not None:
                nodes[name] = node

    def _busy_nodes(self, uid: str, manifest: Manifest) -> frozenset[str]:
        waiting = {
            name for retired in manifest.retired_sets or () for name in retired.node_names or ()
        }
        return frozenset(
            name
            for name in waiting
            for task in self._watching.tasks.by_index("deleting", name)
            if task.spec.snapshot_uid != uid
        )
