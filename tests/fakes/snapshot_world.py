"""A cluster with one SandboxSnapshot, its nodes with their agents, a store, a clock: no event loop.

The planner decides, `perform` does what the executor would; what an agent does with its tasks is
told here in a few lines. Agents are stand-ins: nothing is snapshotted.
"""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from controlplane.api import names
from controlplane.api.core import Node, RuntimeClass, Sandbox, SandboxTemplate
from controlplane.api.manifest import Artifact, ArtifactSet, Manifest
from controlplane.api.meta import JsonObject
from controlplane.api.types import (
    ArtifactPhase,
    SandboxSnapshot,
    SandboxSnapshotStatus,
    SandboxSnapshotTask,
    SnapshotClass,
    SnapshotPhase,
    TaskOperation,
)
from controlplane.errors import (
    AlreadyExistsError,
    ConflictError,
    ControlPlaneError,
    CorruptError,
    ForbiddenError,
    NotFoundError,
    RejectedError,
)
from controlplane.kube.resource import (
    NODES,
    RUNTIME_CLASSES,
    SNAPSHOT_CLASSES,
    SNAPSHOTS,
    TASKS,
    Resource,
    sandbox_templates,
)
from controlplane.kube.sandboxes import SandboxVersion
from controlplane.snapshots.calls import Verb, call_of, is_confirmed
from controlplane.snapshots.executor import name_refused
from controlplane.snapshots.observed import NoManifest, Observed
from controlplane.snapshots.plan import plan_snapshot
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.steps import (
    ConfirmSnapshot,
    Count,
    DeleteManifest,
    EmitEvent,
    Plan,
    PutManifest,
    Step,
)
from controlplane.store.store import OwnerKey, Stored

from .kube import FakeClient, FakeCluster
from .store import MemoryStore

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMESPACE = "team-a"
NAME = "python-ready"
PROVIDER = "snapstart.qemu.org"
VERSION = SandboxVersion.V1BETA1
TEMPLATES = sandbox_templates("v1beta1")

POD_SPEC: JsonObject = {
    "containers": [{"name": "code", "image": "registry.example/picod@sha256:" + "ab" * 32}],
}


@dataclass
class Agents:
    """What the nodes' agents have and do.

    artifacts: (node, key) to hash. failures: node to the messages of its next failing creates.
    idle: nodes whose agent does nothing. in_use: nodes that refuse to delete.
    """

    artifacts: dict[tuple[str, str], str] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    idle: set[str] = field(default_factory=set)
    in_use: set[str] = field(default_factory=set)
    creates: Counter[tuple[str, str]] = field(default_factory=Counter)

    def answer(self, task: SandboxSnapshotTask) -> tuple[ArtifactPhase, str] | None:
        """What becomes of a task; None: nothing yet."""
        spec = task.spec
        node, key = spec.target_node_name, spec.snapshot_key
        if node in self.idle:
            return None
        if spec.operation is TaskOperation.DELETE:
            if node in self.in_use:
                return ArtifactPhase.FAILED, "in use"
            self.artifacts.pop((node, key), None)
            return ArtifactPhase.READY, ""
        if spec.operation is TaskOperation.INSPECT:
            has = self.artifacts.get((node, key)) == spec.snapshot_hash
            return (ArtifactPhase.READY, "") if has else (ArtifactPhase.UNAVAILABLE, "no such one")
        if self.failures.get(node):
            return ArtifactPhase.FAILED, self.failures[node].pop(0)
        self.creates[node, key] += 1
        self.artifacts[node, key] = spec.snapshot_hash
        return ArtifactPhase.READY, ""


class World:
    """Everything that a planner sees, and what its steps change."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.now = START
        self.policy = policy or Policy()
        self.cluster = FakeCluster(now=lambda: self.now)
        self.client = FakeClient(self.cluster)
        self.store = MemoryStore()
        self.agents = Agents()
        self.silent: set[str] = set()
        self.events: list[EmitEvent] = []
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.steps: list[Step] = []
        self.refused: dict[str, str] = {}

    # Set the scene

    def add_node(self, name: str, *, provider: str = PROVIDER, **labels: str) -> None:
        self.cluster.create(
            NODES,
            {
                "metadata": {
                    "name": name,
                    "labels": {names.provider_label(provider): "true", **labels},
                },
                "status": {"conditions": [self._ready("True")]},
            },
        )

    def set_ready(self, name: str, is_ready: bool) -> None:
        condition = self._ready("True" if is_ready else "Unknown")
        self.cluster.merge(
            NODES, name, {"status": {"conditions": [condition]}}, subresource="status"
        )

    def label_node(self, name: str, labels: dict[str, str | None]) -> None:
        self.cluster.merge(NODES, name, {"metadata": {"labels": labels}})

    def patch_node(self, name: str, spec: JsonObject) -> None:
        self.cluster.merge(NODES, name, {"spec": spec})

    def remove_node(self, name: str) -> None:
        self.cluster.delete(NODES, name)
        for key in [key for key in self.agents.artifacts if key[0] == name]:
            del self.agents.artifacts[key]

    def add_template(self, pod_spec: JsonObject | None = None, **spec: Any) -> None:
        pod = {"spec": copy.deepcopy(POD_SPEC if pod_spec is None else pod_spec)}
        self.cluster.create(
            TEMPLATES,
            {
                "metadata": {"name": "python", "namespace": NAMESPACE},
                "spec": {"podTemplate": pod, **spec},
            },
        )

    def edit_template(self, image: str) -> None:
        pod = {"spec": {"containers": [{"name": "code", "image": image}]}}
        patch = {"spec": {"podTemplate": pod}}
        self.cluster.merge(TEMPLATES, "python", patch, namespace=NAMESPACE)

    def delete_template(self) -> None:
        self.cluster.delete(TEMPLATES, "python", namespace=NAMESPACE)

    def add_class(self, **spec: Any) -> None:
        body = {"providerName": PROVIDER, "supportedSnapshotModes": ["Fork"], **spec}
        self.cluster.create(SNAPSHOT_CLASSES, {"metadata": {"name": "qemu"}, "spec": body})

    def add_snapshot(self, **spec: Any) -> None:
        source = {
            "apiGroup": names.EXTENSIONS_GROUP,
            "kind": "SandboxTemplate",
            "name": "python",
        }
        body = {"snapshotMode": "Fork", "sourceRef": source, "snapshotClassName": "qemu", **spec}
        meta = {"name": NAME, "namespace": NAMESPACE}
        self.cluster.create(SNAPSHOTS, {"metadata": meta, "spec": body})

    def patch_snapshot(self, patch: JsonObject) -> None:
        self.cluster.merge(SNAPSHOTS, NAME, patch, namespace=NAMESPACE)

    def force(self) -> None:
        self.patch_snapshot({"metadata": {"annotations": {names.FORCE_REBUILD: "true"}}})

    def delete_snapshot(self) -> None:
        self.cluster.delete(SNAPSHOTS, NAME, namespace=NAMESPACE)

    # Look

    @property
    def snapshot(self) -> SandboxSnapshot:
        found: SandboxSnapshot = self._read(SNAPSHOTS, SandboxSnapshot, NAME, NAMESPACE)
        return found

    @property
    def exists(self) -> bool:
        return bool(self.cluster.objects(SNAPSHOTS))

    @property
    def status(self) -> SandboxSnapshotStatus:
        status = self.snapshot.status
        assert status is not None
        return status

    @property
    def phase(self) -> SnapshotPhase:
        return self.status.phase

    @property
    def counts_of_nodes(self) -> tuple[int, int, int, int]:
        one = self.status
        return (
            one.creating_node_count,
            one.ready_node_count,
            one.failed_node_count,
            one.unavailable_node_count,
        )

    def condition(self, kind: str) -> str:
        return next(one.status for one in self.status.conditions if one.type == kind)

    @property
    def key(self) -> OwnerKey:
        meta = self.snapshot.metadata
        return OwnerKey(meta.namespace, meta.name, meta.uid)

    @property
    def manifest(self) -> Manifest:
        stored = self.store.get(self.key)
        assert stored is not None
        return stored.manifest

    @property
    def active(self) -> ArtifactSet:
        one = self.manifest.active
        assert one is not None
        return one

    @property
    def pending(self) -> ArtifactSet:
        one = self.manifest.pending
        assert one is not None
        return one

    def artifact(self, node: str, one: ArtifactSet | None = None) -> Artifact:
        shown = one or self.manifest.active or self.pending
        return next(a for a in shown.artifacts or () if a.node_name == node)

    @property
    def tasks(self) -> tuple[SandboxSnapshotTask, ...]:
        found = self.cluster.objects(TASKS)
        return tuple(msgspec.convert(body, SandboxSnapshotTask, strict=False) for body in found)

    @property
    def sandboxes(self) -> tuple[Sandbox, ...]:
        found = self.cluster.objects(VERSION.sandboxes)
        return tuple(msgspec.convert(body, Sandbox, strict=False) for body in found)

    def reasons(self) -> list[str]:
        return [event.reason for event in self.events]

    def observe(self) -> Observed:
        """As a controller with up-to-date informers and a store that answers."""
        snapshot = self.snapshot
        uid = snapshot.metadata.uid
        template = self._find(TEMPLATES, SandboxTemplate, snapshot.spec.source_ref.name, NAMESPACE)
        stored: Stored | NoManifest
        try:
            stored = self.store.get(self.key) or NoManifest.ABSENT
        except CorruptError:
            stored = NoManifest.CORRUPT
        return Observed(
            snapshot=snapshot,
            snapshot_class=self._find(
                SNAPSHOT_CLASSES, SnapshotClass, snapshot.spec.snapshot_class_name
            ),
            template=template,
            runtime_class=self._runtime_class(template),
            nodes={
                body["metadata"]["name"]: msgspec.convert(body, Node, strict=False)
                for body in self.cluster.objects(NODES)
            },
            living_agents={
                body["metadata"]["name"] for body in self.cluster.objects(NODES)
            }.difference(self.silent),
            tasks=tuple(one for one in self.tasks if _is_of(one, uid)),
            sandboxes=tuple(one for one in self.sandboxes if _is_of(one, uid)),
            stored=stored,
            refused=self.refused,
            policy=self.policy,
        )

    # Act

    def plan(self) -> Plan:
        return plan_snapshot(self.observe(), self.now)

    def perform(self, plan: Plan, snapshot: SandboxSnapshot, most: int | None = None) -> int:
        """Perform at most so many steps. Returns: how many. Raises: what a step raises."""
        done = 0
        refused: dict[str, str] = {}
        for step in plan.steps[:most]:
            try:
                self._perform(step, snapshot)
            except (RejectedError, ForbiddenError) as exc:
                refused[name_refused(step, exc)] = exc.message
            self.steps.append(step)
            done += 1
        self.refused = refused
        return done

    def reconcile(self, most: int | None = None) -> Plan:
        """Plan once, perform; a failing step ends it, as in the controller."""
        plan, snapshot = self.plan(), self.snapshot
        with suppress(ControlPlaneError):
            self.perform(plan, snapshot, most)
        return plan

    def run_agents(self) -> bool:
        """Let every agent see to its tasks. Returns: whether anything changed."""
        ready = {
            body["metadata"]["name"]
            for body in self.cluster.objects(NODES)
            if body["status"]["conditions"][0]["status"] == "True"
        }
        changed = False
        for task in self.tasks:
            is_done = task.status is not None and task.status.phase is not None
            if is_done or task.spec.target_node_name not in ready - self.silent:
                continue
            answer = self.agents.answer(task)
            if answer is not None:
                self.report(task.metadata.name, *answer)
                changed = True
        return changed

    def report(self, task_name: str, phase: ArtifactPhase, message: str = "") -> None:
        """Write a task's status as an agent does."""
        at = f"{self.now:%Y-%m-%dT%H:%M:%SZ}"
        status = {"phase": phase.value, "message": message, "observedAt": at}
        patch = {"status": status}
        self.cluster.merge(TASKS, task_name, patch, namespace=NAMESPACE, subresource="status")

    def settle(self, most_rounds: int = 60) -> Plan:
        """Plan and perform until nothing is left to do now. Returns: the last plan."""
        for _ in range(most_rounds):
            if not self.exists:
                return Plan()
            plan = self.reconcile()
            is_moved = self.run_agents()
            if not plan.steps and not is_moved:
                return plan
        raise AssertionError(f"no rest after {most_rounds} rounds: {self.plan()}")

    def advance(self, seconds: float) -> Plan:
        """Let time pass at once, then settle."""
        self.now += timedelta(seconds=seconds)
        return self.settle()

    def run_for(self, seconds: float) -> int:
        """Let time pass as the planner asks to be woken. Returns: how often it was."""
        end, woken = self.now + timedelta(seconds=seconds), 0
        while self.exists:
            plan = self.settle()
            due = plan.requeue_at
            if due is None or due > end:
                break
            self.now = max(due, self.now + timedelta(seconds=1))
            woken += 1
        self.now = end
        if self.exists:
            self.settle()
        return woken

    # Details

    def _perform(self, step: Step, snapshot: SandboxSnapshot) -> None:
        key = OwnerKey(NAMESPACE, snapshot.metadata.name, snapshot.metadata.uid)
        match step:
            case PutManifest():
                self.store.put(key, step.manifest, step.version)
            case DeleteManifest():
                self.store.delete(key, step.version)
            case EmitEvent():
                self.events.append(step)
            case Count():
                self.counts[step.metric, *step.labels] += 1
            case _:
                self._call(step, snapshot)

    def _call(self, step: Step, snapshot: SandboxSnapshot) -> None:
        call = call_of(step, snapshot, VERSION)
        assert call is not None
        ignored = {Verb.CREATE: AlreadyExistsError, Verb.DELETE: NotFoundError}
        try:
            answer = self.client.call(call.verb.value, call.args[0], *call.args[1:], **call.kwargs)
        except (AlreadyExistsError, NotFoundError) as exc:
            if not isinstance(exc, ignored.get(call.verb, ())):
                raise
            return
        if isinstance(step, ConfirmSnapshot) and not is_confirmed(step, answer, snapshot):
            raise ConflictError("another snapshot")

    def _ready(self, status: str) -> JsonObject:
        at = f"{self.now:%Y-%m-%dT%H:%M:%SZ}"
        return {"type": "Ready", "status": status, "lastTransitionTime": at}

    def _read(self, resource: Resource, kind: type[Any], name: str, namespace: str = "") -> Any:
        return msgspec.convert(self.cluster.get(resource, name, namespace), kind, strict=False)

    def _find(self, resource: Resource, kind: type[Any], name: str, namespace: str = "") -> Any:
        try:
            return self._read(resource, kind, name, namespace)
        except NotFoundError:
            return None

    def _runtime_class(self, template: SandboxTemplate | None) -> RuntimeClass | None:
        spec = template.spec.pod_template.spec if template else {}
        name = spec.get("runtimeClassName")
        return self._find(RUNTIME_CLASSES, RuntimeClass, name) if name else None


def make_world(*node_names: str, policy: Policy | None = None, **snapshot_spec: Any) -> World:
    """A world with a class, a template, a snapshot; nothing is built yet."""
    world = World(policy)
    for name in node_names:
        world.add_node(name)
    world.add_class()
    world.add_template()
    world.add_snapshot(**snapshot_spec)
    return world


def make_ready_world(*node_names: str, policy: Policy | None = None, **spec: Any) -> World:
    """A world whose snapshot is built on every node and at rest."""
    world = make_world(*node_names, policy=policy, **spec)
    world.settle()
    world.advance(61)  # finished tasks have gone
    world.events.clear()
    world.counts.clear()
    world.steps.clear()
    return world


def _is_of(found: SandboxSnapshotTask | Sandbox, uid: str) -> bool:
    owner = found.metadata.controller
    owned = owner is not None and owner.uid == uid
    return owned or found.metadata.label(names.SNAPSHOT_UID) == uid
