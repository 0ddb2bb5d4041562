"""Know the API server's objects as they are, at once and typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from controlplane.api.core import Node, Pod, Sandbox, SandboxTemplate
from controlplane.api.types import SandboxSnapshot, SandboxSnapshotTask, SnapshotClass
from controlplane.kube.api import WatchKind
from controlplane.kube.cache import Changed, ObjectCache, key_of
from controlplane.kube.resource import (
    NODES,
    PODS,
    SNAPSHOT_CLASSES,
    SNAPSHOTS,
    TASKS,
    Resource,
    sandbox_templates,
    sandboxes,
)
from tests.fakes.kube_cluster import FakeCluster, FakeWatch

SANDBOXES: Final = sandboxes("v1beta1")
TEMPLATES: Final = sandbox_templates("v1beta1")

Listener = Callable[[Changed[Any]], None]


class Truth:
    """What is so right now; nobody but the world and the invariants may look."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.changes = 0
        self.snapshots = ObjectCache(SandboxSnapshot)
        self.tasks = ObjectCache(SandboxSnapshotTask)
        self.sandboxes = ObjectCache(Sandbox)
        self.pods = ObjectCache(Pod, {"uid": lambda pod: [pod.metadata.uid]})
        self.nodes = ObjectCache(Node)
        self.templates = ObjectCache(SandboxTemplate)
        self.classes = ObjectCache(SnapshotClass)
        self._listeners: dict[str, list[Listener]] = {}
        for resource, cache in (
            (SNAPSHOTS, self.snapshots),
            (TASKS, self.tasks),
            (SANDBOXES, self.sandboxes),
            (PODS, self.pods),
            (NODES, self.nodes),
            (TEMPLATES, self.templates),
            (SNAPSHOT_CLASSES, self.classes),
        ):
            self._follow(cluster, resource, cache)

    def listen(self, resource: Resource, listener: Listener) -> None:
        """Be told of every change of a kind, in the moment it happens."""
        self._listeners.setdefault(resource.plural, []).append(listener)

    def _follow(self, cluster: FakeCluster, resource: Resource, cache: ObjectCache[Any]) -> None:
        watch = cluster.watch(resource, resource_version="0")
        watch.on_change = lambda: self._take(resource, watch, cache)

    def _take(self, resource: Resource, watch: FakeWatch, cache: ObjectCache[Any]) -> None:
        for event in watch.poll():
            if event.kind is WatchKind.BOOKMARK:
                continue
            gone = event.kind is WatchKind.DELETED
            changes = cache.drop(key_of(event.body)) if gone else cache.put(event.body)
            assert not cache.undecodable, cache.undecodable
            self.changes += 1
            for change in changes:
                for listener in self._listeners.get(resource.plural, ()):
                    listener(change)
