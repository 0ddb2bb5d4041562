"""Follow everything that decides about SandboxSnapshots, as keys into a queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from controlplane.api import names
from controlplane.api.core import Lease, Node, RuntimeClass, Sandbox, SandboxTemplate
from controlplane.api.types import (
    SandboxSnapshot,
    SandboxSnapshotTask,
    SnapshotClass,
    TaskOperation,
)
from controlplane.kube.api import KubeApi
from controlplane.kube.informer import Informer
from controlplane.kube.resource import (
    LEASES,
    NODES,
    RUNTIME_CLASSES,
    SNAPSHOT_CLASSES,
    SNAPSHOTS,
    TASKS,
)
from controlplane.kube.sandboxes import SandboxApi
from controlplane.kube.workers import WorkQueue
from controlplane.snapshots.agents import AgentWatch
from controlplane.snapshots.interest import Holdings, Key, has_changed, providers_of

# Changes of one node come in a burst; they are looked at once.
NODE_DELAY_S: Final = 0.5
_IDLE_S: Final = 5.0


class Watching:
    """The informers. Args: lease_namespace: where agents renew their Leases."""

    def __init__(
        self,
        api: KubeApi,
        sandbox_api: SandboxApi,
        lease_namespace: str,
        queue: WorkQueue[Key],
    ) -> None:
        self._queue = queue
        self.holdings = Holdings()
        self.agents = AgentWatch(time.monotonic, self._agent_changed)
        self.snapshots = Informer(
            api,
            SNAPSHOTS,
            SandboxSnapshot,
            indexers={
                "class": lambda one: [one.spec.snapshot_class_name],
                "source": lambda one: [f"{one.metadata.namespace}/{one.spec.source_ref.name}"],
                "uid": lambda one: [one.metadata.uid],
            },
        )
        self.tasks = Informer(
            api,
            TASKS,
            SandboxSnapshotTask,
            indexers={"snapshot": _owners, "deleting": _deleting},
        )
        self.sandboxes = Informer(
            api,
            sandbox_api.sandboxes,
            Sandbox,
            labels=names.SNAPSHOT_UID,
            indexers={"snapshot": _owners},
        )
        self.classes = Informer(
            api,
            SNAPSHOT_CLASSES,
            SnapshotClass,
            indexers={"provider": lambda one: [one.spec.provider_name]},
        )
        self.nodes = Informer(api, NODES, Node, indexers={"provider": providers_of})
        self.runtime_classes = Informer(api, RUNTIME_CLASSES, RuntimeClass)
        self.leases = Informer(api, LEASES, Lease, namespace=lease_namespace)
        resource = sandbox_api.templates
        self.templates = Informer(api, resource, SandboxTemplate) if resource else None
        self._add_handlers()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow while inside, from the moment when all have listed."""
        informers = [one for one in self._all() if one is not None]
        timer = asyncio.create_task(self._expire_agents(), name="snapshot-agents")
        try:
            for informer in informers:
                informer.start()
            for informer in informers:
                await informer.wait_synced()
            yield
        finally:
            timer.cancel()
            await asyncio.gather(timer, return_exceptions=True)
            for informer in informers:
                await informer.stop()

    def snapshots_of_node(self, *states: Node | None) -> frozenset[Key]:
        """Whom a node concerns that is, or was, in these states."""
        found: set[Key] = set()
        for provider in providers_of(*states):
            for one in self.classes.by_index("provider", provider):
                if any(state is not None and _selects(one, state) for state in states):
                    found.update(self._of_class(one.metadata.name))
        for state in states:
            if state is not None:
                found |= self.holdings.of(state.metadata.name)
        return frozenset(found)

    def _all(self) -> Iterable[Informer[Any] | None]:
        # Snapshots come last: by then everything that decides about them is known.
        yield from (self.classes, self.templates, self.runtime_classes, self.nodes, self.leases)
        yield from (self.tasks, self.sandboxes, self.snapshots)

    def _add_handlers(self) -> None:
        self.snapshots.add_handler(self._snapshot_changed)
        self.tasks.add_handler(self._task_changed)
        self.sandboxes.add_handler(self._sandbox_changed)
        self.classes.add_handler(self._class_changed)
        self.runtime_classes.add_handler(self._runtime_class_changed)
        self.nodes.add_handler(self._node_changed)
        self.leases.add_handler(self.agents.changed)
        if self.templates is not None:
            self.templates.add_handler(self._template_changed)

    def _snapshot_changed(self, old: SandboxSnapshot | None, new: SandboxSnapshot | None) -> None:
        self._add_owner(new or old)

    def _task_changed(
        self, old: SandboxSnapshotTask | None, new: SandboxSnapshotTask | None
    ) -> None:
        found = new or old
        if found is not None:
            self._queue.add((found.metadata.namespace, found.spec.snapshot_ref.name))

    def _sandbox_changed(self, old: Sandbox | None, new: Sandbox | None) -> None:
        found = new or old
        for uid in _owners(found) if found is not None else ():
            for one in self.snapshots.by_index("uid", uid):
                self._add_owner(one)

    def _class_changed(self, old: SnapshotClass | None, new: SnapshotClass | None) -> None:
        found = new or old
        if found is not None and not _is_same_spec(old, new):
            self._add_all(self._of_class(found.metadata.name))

    def _template_changed(self, old: SandboxTemplate | None, new: SandboxTemplate | None) -> None:
        found = new or old
        if found is None or _is_same_spec(old, new):
            return
        meta = found.metadata
        for one in self.snapshots.by_index("source", f"{meta.namespace}/{meta.name}"):
            self._add_owner(one)

    def _runtime_class_changed(self, old: RuntimeClass | None, new: RuntimeClass | None) -> None:
        """Rare, so that nobody keeps an index for it."""
        found = new or old
        for template in self.templates.all() if self.templates is not None else ():
            wanted = template.spec.pod_template.spec.get("runtimeClassName")
            if found is not None and wanted == found.metadata.name:
                self._template_changed(None, template)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if has_changed(old, new):
            self._add_all(self.snapshots_of_node(old, new))

    def _agent_changed(self, node_name: str) -> None:
        node = self.nodes.get(node_name)
        self._add_all(self.snapshots_of_node(node))

    def _of_class(self, name: str) -> list[Key]:
        return [_key(one) for one in self.snapshots.by_index("class", name)]

    def _add_owner(self, found: SandboxSnapshot | None) -> None:
        if found is not None:
            self._queue.add(_key(found))

    def _add_all(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._queue.add_after(key, NODE_DELAY_S)

    async def _expire_agents(self) -> None:
        while True:
            next_s = self.agents.expire()
            await asyncio.sleep(min(_IDLE_S, max(0.1, next_s)) if next_s is not None else _IDLE_S)


def _key(found: SandboxSnapshot) -> Key:
    return found.metadata.namespace, found.metadata.name


def _owners(found: SandboxSnapshotTask | Sandbox) -> set[str]:
    """UIDs of snapshots by owner reference, by label: one of the two may have been lost."""
    owner = found.metadata.controller
    uids = {found.metadata.label(names.SNAPSHOT_UID)}
    if owner is not None and owner.kind == "SandboxSnapshot":
        uids.add(owner.uid)
    return uids - {""}


def _deleting(task: SandboxSnapshotTask) -> list[str]:
    is_delete = task.spec.operation is TaskOperation.DELETE
    return [task.spec.target_node_name] if is_delete else []


def _selects(one: SnapshotClass, node: Node) -> bool:
    labels = node.metadata.labels or {}
    return all(labels.get(key) == value for key, value in (one.spec.node_selector or {}).items())


def _is_same_spec(
    old: SnapshotClass | SandboxTemplate | None, new: SnapshotClass | SandboxTemplate | None
) -> bool:
    if old is None or new is None:
        return False
    return old.spec == new.spec and old.metadata.is_terminating == new.metadata.is_terminating
