"""A node agent between an API server in memory and an engine on fake machines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agentd import native
from agentd.engine.engine import Engine
from agentd.engine.engine import Outside as EngineOutside
from agentd.engine.session import EndReason
from agentd.health import Health
from agentd.node.agent import NodeAgent, Outside
from agentd.settings import Node, Settings
from agentd.spans import SpanTracer
from agentd.store.templates import TemplateStore
from agentd.tracing import Span
from agentd.vmm.vmm import Vmm
from controlplane.api import names
from controlplane.api.keys import key_id
from controlplane.api.meta import JsonObject
from controlplane.errors import NotFoundError
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import (
    EVENTS,
    NAMESPACES,
    PODS,
    SNAPSHOTS,
    TASKS,
    Resource,
    sandboxes,
)
from tests.fakes.daemon import make_image, make_settings
from tests.fakes.kube import FakeKube
from tests.fakes.vmm import FakeVmm

SANDBOXES = sandboxes("v1beta1")
HASH = "sha256:" + "5" * 64
KEY = "python-0123456789-fork-g1-r1"


class Trace:
    """Keeps what was reported, and the spans that are made of it."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, dict[str, Any]]] = []
        self.spans: list[Span] = []
        self._tracer = SpanTracer(self.spans.append)

    def step(self, event: str, /, **details: str | int | float) -> None:
        self.steps.append((event, details))
        self._tracer.step(event, **details)

    def has(self, event: str) -> bool:
        """It was reported."""
        return any(step == event for step, _ in self.steps)


@dataclass
class World:
    """What a test looks at. pods_cidr: so that tests do not meet each other's ports."""

    kube: FakeKube
    root: Path
    settings: Settings
    vmm: Any
    engine: Engine
    trace: Trace = field(default_factory=Trace)
    health: Health = field(default_factory=Health)

    def make(self, resource: Resource, name: str, **body: Any) -> JsonObject:
        """Create an object as somebody else would."""
        meta = {"name": name, **body.pop("metadata", {})}
        if resource.is_namespaced:
            meta.setdefault("namespace", "team")
        made: JsonObject = self.kube.cluster.create(resource, {"metadata": meta, **body})
        return made

    def pod(
        self, name: str, *, owner: JsonObject | None = None, key: str = "", **spec: Any
    ) -> JsonObject:
        """A Pod that the scheduler has bound to the node."""
        container = {"name": "main", "image": "snapstart.local/python:3.11"}
        container |= spec.pop("container", {})
        metadata: dict[str, Any] = {"annotations": {names.SNAPSHOT_KEY: key}} if key else {}
        if owner is not None:
            metadata["ownerReferences"] = [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                    "controller": True,
                }
            ]
        metadata |= spec.pop("metadata", {})
        return self.make(
            PODS,
            name,
            metadata=metadata,
            spec={"nodeName": "node-a", "containers": [container], **spec},
            status={"phase": "Pending"},
        )

    def snapshot(self, name: str = "python") -> JsonObject:
        """A SandboxSnapshot."""
        source = {"apiGroup": names.EXTENSIONS_GROUP, "kind": "SandboxTemplate", "name": "t"}
        spec = {"snapshotMode": "Fork", "sourceRef": source, "snapshotClassName": "local"}
        return self.make(SNAPSHOTS, name, spec=spec)

    def build_sandbox(self, snapshot: JsonObject, name: str = "build-1") -> JsonObject:
        """A build Sandbox as the snapshot controller makes it, ready."""
        owner = {
            "apiVersion": names.API_VERSION,
            "kind": "SandboxSnapshot",
            "name": snapshot["metadata"]["name"],
            "uid": snapshot["metadata"]["uid"],
            "controller": True,
        }
        metadata = {
            "ownerReferences": [owner],
            "labels": {names.TEMPLATE_SANDBOX: "true", names.SNAPSHOT_KEY_ID: key_id(KEY)},
            "annotations": {names.SNAPSHOT_HASH: HASH},
        }
        made = self.make(SANDBOXES, name, metadata=metadata, spec={"podTemplate": {"spec": {}}})
        return self.set_ready(made)

    def set_ready(self, sandbox: JsonObject) -> JsonObject:
        """As agent-sandbox would say once the Pod is ready."""
        status = {"conditions": [{"type": "Ready", "status": "True", "reason": "PodReady"}]}
        merged: JsonObject = self.kube.cluster.merge(
            SANDBOXES,
            sandbox["metadata"]["name"],
            {"status": status},
            namespace="team",
            subresource="status",
        )
        return merged

    def task(self, snapshot: JsonObject, **changes: Any) -> JsonObject:
        """A task for this node."""
        spec = {
            "snapshotRef": {
                "apiGroup": names.GROUP,
                "kind": "SandboxSnapshot",
                "name": snapshot["metadata"]["name"],
            },
            "snapshotUID": snapshot["metadata"]["uid"],
            "snapshotMode": "Fork",
            "targetSandboxRef": {
                "apiGroup": names.SANDBOX_GROUP,
                "kind": "Sandbox",
                "name": "build-1",
            },
            "targetNodeName": "node-a",
            "providerName": "snapstart.qemu.org",
            "snapshotKey": KEY,
            "snapshotHash": HASH,
            "operation": "Create",
        }
        name, metadata = changes.pop("name", "task-1"), changes.pop("metadata", {})
        return self.make(TASKS, name, metadata=metadata, spec={**spec, **changes})

    def get(self, resource: Resource, name: str) -> JsonObject:
        """An object as it is now."""
        namespace = "team" if resource.is_namespaced else ""
        found: JsonObject = self.kube.cluster.get(resource, name, namespace)
        return found

    def events(self) -> set[str]:
        """The reasons of all events."""
        return {str(event["reason"]) for event in self.kube.cluster.objects(EVENTS)}

    async def until(self, check: Callable[[], bool]) -> None:
        """Look until it is so; the test's own timeout is the limit."""
        while not _holds(check):  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.01)

    async def until_ready(self, name: str) -> JsonObject:
        """Wait for a Pod to be ready."""
        await self.until(lambda: condition(self.get(PODS, name), "Ready") == "True")
        return self.get(PODS, name)

    async def until_task(self, phase: str, name: str = "task-1") -> JsonObject:
        """Wait for a task's phase."""
        await self.until(lambda: self.get(TASKS, name).get("status", {}).get("phase") == phase)
        status: JsonObject = self.get(TASKS, name)["status"]
        return status

    def machines(self) -> list[str]:
        """The ids of what has a run directory."""
        return sorted(path.name for path in (self.root / "run/vms").iterdir())


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except (LookupError, NotFoundError):
        return False


def condition(pod: JsonObject, kind: str) -> str:
    """A condition's status, empty if there is none."""
    found = pod.get("status", {}).get("conditions") or ()
    return next((str(one["status"]) for one in found if one["type"] == kind), "")


def new_cluster() -> FakeKube:
    """An API server with what every cluster has."""
    kube = FakeKube()
    kube.cluster.create(NAMESPACES, {"metadata": {"name": "kube-system"}})
    return kube


@asynccontextmanager
async def running_world(
    root: Path, kube: FakeKube, *, ends_sessions: bool = True, **node: Any
) -> AsyncIterator[World]:
    """An engine on fake machines with its agent, as `running_agent`."""
    settings = make_settings(root, machines={"memory_mib": 1})
    (root / "i").mkdir(exist_ok=True)
    image = root / "i" / "images" / ("0" * 64)
    if not image.exists():
        image.parent.mkdir(parents=True)
        make_image(image)
    vmm = FakeVmm("inst", settings.run_dir / "vms")
    agent = running_agent(root, settings, vmm, kube, ends_sessions=ends_sessions, **node)
    async with agent as world:
        yield world


@asynccontextmanager
async def running_agent(
    root: Path,
    settings: Settings,
    vmm: Vmm,
    kube: FakeKube,
    *,
    ends_sessions: bool = True,
    **node: Any,
) -> AsyncIterator[World]:
    """An engine with its agent until the block ends; sessions are left to a successor if asked."""
    wanted = {"enabled": True, "virtual": True, "name": "node-a", "address": "127.0.0.1"}
    settings = msgspec.structs.replace(settings, node=Node(**{**wanted, **node}))
    settings.data_dir.mkdir(exist_ok=True, mode=0o700)
    trace = Trace()
    with TemplateStore(settings.data_dir, owner="inst", copier=native.copy_memory) as store:
        engine = Engine(EngineOutside(settings, vmm, store, trace))
        world = World(kube, root, settings, vmm, engine, trace)
        try:
            await engine.start()
            async with _running_agent(world):
                yield world
            if ends_sessions:
                for session in engine.sessions.list():
                    await engine.sessions.end(session.id, EndReason.DELETED)
        finally:
            await engine.stop()


@asynccontextmanager
async def _running_agent(world: World) -> AsyncIterator[None]:
    @asynccontextmanager
    async def connect() -> AsyncIterator[KubeApi]:
        yield world.kube

    agent = NodeAgent(
        Outside(
            world.settings,
            world.engine,
            world.trace,
            connect,
            look_s=0.1,
            health=world.health,
        )
    )
    task = asyncio.create_task(agent.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
