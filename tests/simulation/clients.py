"""What programs hold of the API server, of the store: requests that wait for their turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

from controlplane.api.manifest import Manifest
from controlplane.kube.api import WatchEvent
from controlplane.kube.resource import Resource
from controlplane.store.store import OwnerKey, Stored
from tests.fakes.kube import FakeClient
from tests.fakes.kube_cluster import FakeCluster
from tests.fakes.kube_face import KubeFace
from tests.fakes.store import MemoryStore, StoreFault

from .loop import Process
from .network import Network, Stream

_STORE: Final = "store"
_KUBE: Final = "kube"
_DRIVER: Final = "driver"


class SimKube(KubeFace):
    """One process's KubeApi."""

    def __init__(self, network: Network, cluster: FakeCluster, process: Process) -> None:
        self.client = FakeClient(cluster)
        self._network = network
        self._process = process

    async def _call(self, op: str, resource: Resource | None, *args: Any, **kwargs: Any) -> Any:
        about = _about(op, args)
        part = f"/{kwargs['subresource']}" if kwargs.get("subresource") else ""
        name = f"{op} {resource.plural if resource else ''}{part} {about}".rstrip()
        return await self._network.call(
            self._process,
            _KUBE,
            name,
            lambda: self.client.call(op, resource, *args, **kwargs),
            is_write=op in ("create", "replace", "merge", "apply", "delete"),
        )

    async def watch(self, resource: Resource, **kwargs: str) -> AsyncIterator[WatchEvent]:
        watch = await self._call("watch", resource, **kwargs)
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
