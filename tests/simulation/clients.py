"""What programs hold of the API server, of the store: requests that wait for their turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

from controlplane.api.manifest import Manifest
from controlplane.api.meta import JsonObject
from controlplane.kube.api import Page, WatchEvent
from controlplane.kube.resource import Resource
from controlplane.store.store import OwnerKey, Stored
from tests.fakes.kube import FakeClient
from tests.fakes.kube_cluster import FakeCluster
from tests.fakes.store import MemoryStore, StoreFault

from .loop import Process
from .network import Network, Stream

_STORE: Final = "store"
_KUBE: Final = "kube"
_DRIVER: Final = "driver"


class SimKube:
    """One process's KubeApi."""

    def __init__(self, network: Network, cluster: FakeCluster, process: Process) -> None:
        self.client = FakeClient(cluster)
        self._network = network
        self._process = process

    def _ask(
        self, op: str, resource: Resource | None, *args: Any, **kwargs: Any
    ) -> asyncio.Future[Any]:
        about = _about(op, args)
        part = f"/{kwargs['subresource']}" if kwargs.get("subresource") else ""
        name = f"{op} {resource.plural if resource else ''}{part} {about}".rstrip()
        return self._network.call(
            self._process,
            _KUBE,
            name,
            lambda: self.client.call(op, resource, *args, **kwargs),
            is_write=op in ("create", "replace", "merge", "apply", "delete"),
        )

    async def get(self, resource: Resource, name: str, namespace: str = "") -> JsonObject:
        result: JsonObject = await self._ask("get", resource, name, namespace)
        return result

    async def list(self, resource: Resource, **kwargs: str) -> Page:
        result: Page = await self._ask("list", resource, **kwargs)
        return result

    async def watch(self, resource: Resource, **kwargs: str) -> AsyncIterator[WatchEvent]:
        watch = await self._ask("watch", resource, **kwargs)
        stream = self._network.opened(Stream(self._process, watch, self._network.changed))
        try:
            while True:
                batch = await stream.next()
                if not batch:
                    return
                for event in batch:
                    yield event
        finally:
            self.client.cluster.close_watch(watch)

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        result: JsonObject = await self._ask("create", resource, body)
        return result

    async def replace(
        self, resource: Resource, body: JsonObject, *, subresource: str = ""
    ) -> JsonObject:
        result: JsonObject = await self._ask("replace", resource, body, subresource=subresource)
        return result

    async def merge(
        self,
        resource: Resource,
        name: str,
        patch: JsonObject,
        *,
        namespace: str = "",
        subresource: str = "",
    ) -> JsonObject:
        result: JsonObject = await self._ask(
            "merge", resource, name, patch, namespace=namespace, subresource=subresource
        )
        return result

    async def apply(
        self,
        resource: Resource,
        body: JsonObject,
        *,
        manager: str,
        subresource: str = "",
        force: bool = False,
    ) -> JsonObject:
        result: JsonObject = await self._ask(
            "apply", resource, body, manager=manager, subresource=subresource, force=force
        )
        return result

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        grace_s: int | None = None,
    ) -> None:
        await self._ask("delete", resource, name, namespace=namespace, uid=uid, grace_s=grace_s)

    async def preferred_version(self, group: str) -> str:
        result: str = await self._ask("preferred_version", None, group)
        return result

    async def served_versions(self, group: str) -> tuple[str, ...]:
        result: tuple[str, ...] = await self._ask("served_versions", None, group)
        return result


def _about(op: str, args: tuple[Any, ...]) -> str:
    first = args[0] if args else ""
    return str(first if isinstance(first, str) else first["metadata"].get("name", ""))


class SimStore:
    """One process's ArtifactStore. on_put, on_get, on_delete: told right after the effect."""

    def __init__(
        self,
        network: Network,
        memory: MemoryStore,
        process: Process,
        audit: StoreAudit,
    ) -> None:
        self._network = network
        self._memory = memory
        self._process = process
        self._audit = audit

    async def get(self, key: OwnerKey) -> Stored | None:
        """See ArtifactStore."""
        result: Stored | None = await self._network.call(
            self._process, _STORE, f"store get {key.name}", lambda: self._get(key)
        )
        return result

    async def put(self, key: OwnerKey, manifest: Manifest, version: str | None) -> str:
        """See ArtifactStore."""
        result: str = await self._network.call(
            self._process,
            _STORE,
            f"store put {key.name}",
            lambda: self._put(key, manifest, version),
            is_write=True,
        )
        return result

    async def delete(self, key: OwnerKey, version: str | None = None) -> None:
        """See ArtifactStore."""
        await self._network.call(
            self._process,
            _STORE,
            f"store delete {key.name}",
            lambda: self._delete(key, version),
            is_write=True,
        )

    async def list(self) -> AsyncIterator[OwnerKey]:
        """See ArtifactStore."""
        keys: list[OwnerKey] = await self._network.call(
            self._process, _STORE, "store list", lambda: list(self._memory.list())
        )
        for key in keys:
            yield key

    async def close(self) -> None:
        """See ArtifactStore."""

    def _get(self, key: OwnerKey) -> Stored | None:
        network = self._network
        is_stale = network.random.random() < network.weather.stale_read
        if is_stale:
            network.faults += 1
            self._memory.fail_next("get", StoreFault.STALE)
        stored = self._memory.get(key)
        self._audit.read(self._process, key, stored, is_stale)
        return stored

    def _put(self, key: OwnerKey, manifest: Manifest, version: str | None) -> str:
        before = self._memory.texts.get(str(key))
        text = self._memory.put(key, manifest, version)
        self._audit.put(self._process, key, before, version, manifest)
        return text

    def _delete(self, key: OwnerKey, version: str | None) -> None:
        before = self._memory.texts.get(str(key))
        self._memory.delete(key, version)
        self._audit.deleted(self._process, key, before, version)


class StoreAudit(Protocol):
    """Who looks on."""

    def read(self, process: Process, key: OwnerKey, stored: Stored | None, is_stale: bool) -> None:
        """Somebody read."""

    def put(
        self,
        process: Process,
        key: OwnerKey,
        before: bytes | None,
        version: str | None,
        manifest: Manifest,
    ) -> None:
        """Somebody wrote over `before`."""

    def deleted(
        self, process: Process, key: OwnerKey, before: bytes | None, version: str | None
    ) -> None:
        """Somebody deleted `before`."""
