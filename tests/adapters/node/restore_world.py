"""A node with a kubelet's Pods, a stand-in sandboxer and an agent's watch over their restores."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agentd.kuasar.access import SandboxerAccess
from agentd.kuasar.client import Form, PodRef
from agentd.metrics import Metrics
from agentd.node.restore_watch import RestoreWatch
from agentd.node.task_look import Place
from agentd.settings import Kuasar
from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.api.types import SnapshotMode
from controlplane.kube.recorder import EventRecorder
from controlplane.kube.resource import EVENTS, PODS, sandboxes
from tests.fakes.kuasar.node import KuasarNode
from tests.fakes.kuasar.sandboxer import Config
from tests.fakes.kube import FakeKube

SANDBOXES = sandboxes("v1beta1")
KEY = "python-0123456789-fork-g1-r1"
STUCK_S = 60.0
START = datetime(2026, 1, 1, tzinfo=UTC)
# What the webhook puts on a session of a Kuasar class.
INTENT = {names.SNAPSHOT_KEY: KEY, names.KUASAR_TEMPLATE_KEY: KEY}


class Guest:
    """What listens in a Pod: raw answers by path. asked: how often for each path.

    is_silent: it accepts, and says nothing.
    """

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.is_silent = False
        self.port = 1  # where nobody listens
        self._tasks: set[asyncio.Task[None]] = set()

    def says(self, path: str, body: str, head: str = "HTTP/1.1 200 OK") -> None:
        """Let it answer a path."""
        raw = body.encode()
        self.answers[path] = f"{head}\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw

    def has_gate(self, state: str) -> None:
        """Let it be a guest of ours."""
        self.says("/health", f'{{"status": "ok", "gate": "{state}"}}')

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Guest]:
        """Listen on some port of 127.0.0.1."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await caught_up()  # who was accepted has a task
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await caught_up()  # what was aborted is closed

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            self.asked[path] += 1
            if self.is_silent:
                await asyncio.Event().wait()
            writer.write(self.answers.get(path, b"HTTP/1.1 404 Not Found\r\n\r\n"))
            await writer.drain()
            writer.write_eof()
            await reader.read()
        except (asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
            return
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


class RestoreWorld:
    """Use as `async with`. Its clock stands still until a test moves it; `look` is one reconcile.

    counted: what the metrics say. steps: what was traced.
    """

    def __init__(
        self, root: Path, form: Form, config: Config | None = None, **settings: Any
    ) -> None:
        self.kube = FakeKube()
        self.node = KuasarNode(root, form, config)
        self.sandboxer = self.node.sandboxer
        self.settings = Kuasar(
            enabled=True,
            admin_socket=self.node.admin_path,
            grpc_socket=self.node.grpc_path,
            cri_socket=self.node.cri_path,
            stuck_s=STUCK_S,
            **settings,
        )
        self.access = SandboxerAccess(self.settings)
        self.metrics = Metrics()
        self.steps: list[tuple[str, dict[str, Any]]] = []
        self.clock_s = 0.0
        self.guest = Guest()
        self.watch: RestoreWatch
        self._events: EventRecorder
        self._numbers = itertools.count(1)
        self._stack = AsyncExitStack()
        self._agent = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.node)
        await self.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.end()
        await self._stack.aclose()

    async def begin(self) -> None:
        """An agentd starts; it knows nothing of an earlier one."""
        self._events = EventRecorder(self.kube, component="agentd", instance="node-a")
        self._events.start()
        self._agent.push_async_callback(self._events.stop)
        place = Place("node-a", "cluster-uid", SANDBOXES)
        self.watch = RestoreWatch(
            self.kube,
            self.access,
            self.settings,
            place,
            self._events,
            self,
            lambda: START + timedelta(seconds=self.clock_s),
            lambda: self.clock_s,
        )
        self.watch.start()
        self._agent.push_async_callback(self.watch.close)

    async def end(self) -> None:
        """It ends."""
        await self._agent.aclose()

    def step(self, event: str, /, **details: str | int | float) -> None:
        """A Tracer."""
        self.steps.append((event, details))
        self.metrics.step(event, **details)

    # -- what others do -----------------------------------------------------------------------

    async def snapshot(self, key: str = KEY) -> None:
        """There is a snapshot on the node."""
        build = self.sandboxer.run(f"build-{next(self._numbers)}")
        pod = PodRef(build.pod_uid, "team", "build", build.id)
        await self.node.client().create(pod, key, SnapshotMode.FORK)

    def sandbox(self, name: str = "box") -> JsonObject:
        """agent-sandbox's Sandbox."""
        body = {"metadata": {"name": name, "namespace": "team"}, "spec": {"podTemplate": {}}}
        made: JsonObject = self.kube.cluster.create(SANDBOXES, body)
        return made

    def pod(
        self,
        name: str = "pod",
        *,
        annotations: Mapping[str, str] = INTENT,
        owner: JsonObject | None = None,
        node: str = "node-a",
        is_ready: bool = True,
        **metadata: Any,
    ) -> JsonObject:
        """A Pod that a kubelet runs, its containers started now; no sandboxer knows it yet."""
        meta = {"name": name, "namespace": "team", "annotations": dict(annotations), **metadata}
        if owner is not None:
            meta["ownerReferences"] = [controller(owner)]
        ports = [{"containerPort": self.guest.port}]
        started = (START + timedelta(seconds=self.clock_s)).isoformat()
        status = {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": str(is_ready)}],
            "containerStatuses": [{"state": {"running": {"startedAt": started}}}],
        }
        spec = {"nodeName": node, "containers": [{"name": "main", "ports": ports}]}
        made: JsonObject = self.kube.cluster.create(
            PODS, {"metadata": meta, "spec": spec, "status": status}
        )
        return made

    def start_pod(self, name: str = "pod", **facts: Any) -> JsonObject:
        """A Pod whose sandbox was restored, or booted, as its annotations have it."""
        pod = self.pod(name, **facts)
        meta = pod["metadata"]
        self.sandboxer.start(meta["uid"], meta["annotations"], self.node.form)
        return pod

    def set_ready(self, is_ready: bool, name: str = "pod") -> None:
        """The kubelet says so."""
        status = {"conditions": [{"type": "Ready", "status": str(is_ready)}]}
        self.kube.cluster.merge(
            PODS, name, {"status": status}, namespace="team", subresource="status"
        )

    # -- looking ------------------------------------------------------------------------------

    async def look(self, name: str = "pod", *, after_s: float = 0.0) -> float | None:
        """One look at a Pod, some time after the last. Returns: as RestoreWatch.reconcile."""
        self.clock_s += after_s
        await caught_up()
        delay_s = await self.watch.reconcile(("team", name))
        await caught_up()
        return delay_s

    def get(self, name: str = "pod") -> JsonObject:
        """A Pod as it is now."""
        found: JsonObject = self.kube.cluster.get(PODS, name, "team")
        return found

    def has(self, name: str = "pod") -> bool:
        """It is there, and not being deleted."""
        found = [one for one in self.kube.cluster.objects(PODS) if one["metadata"]["name"] == name]
        return any("deletionTimestamp" not in one["metadata"] for one in found)

    def said(self, name: str = "pod") -> tuple[str | None, str | None]:
        """Both annotations."""
        found = self.get(name)["metadata"].get("annotations", {})
        return found.get(names.STARTED_FROM), found.get(names.STARTED_FROM_REASON)

    def events(self) -> list[tuple[str, str, str, str]]:
        """Of every event: kind and name of what it is about, type, reason."""
        return [
            (
                one["involvedObject"]["kind"],
                one["involvedObject"]["name"],
                one["type"],
                one["reason"],
            )
            for one in self.kube.cluster.objects(EVENTS)
            for _ in range(one["count"])
        ]

    def messages(self) -> str:
        """Of all events."""
        return "\n".join(one["message"] for one in self.kube.cluster.objects(EVENTS))

    def restores(self) -> dict[tuple[str, str], float]:
        """The restore counter, by result and reason."""
        return {
            (one.labels["result"], one.labels["reason"]): one.value
            for one in self._samples("agentcube_snapstart_restore_total")
        }

    def stuck(self) -> dict[str, float]:
        """The counter of stuck Pods, by sign."""
        found = self._samples("snapstart_stuck_pods_total")
        return {one.labels["sign"]: one.value for one in found}

    def replaced(self) -> float:
        """The counter of replaced Pods."""
        return float(sum(one.value for one in self._samples("snapstart_replaced_pods_total")))

    def _samples(self, name: str) -> list[Any]:
        families = self.metrics.registry.collect()
        return [one for family in families for one in family.samples if one.name == name]


def controller(owner: JsonObject) -> JsonObject:
    """A reference to who controls a Pod."""
    meta = owner["metadata"]
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
    }


async def caught_up() -> None:
    """Informers and recorders on the API server in memory have done what there is to do."""
    for _ in range(50):
        await asyncio.sleep(0)
