"""Count the failures of the artifact store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter

from controlplane.api.manifest import Manifest
from controlplane.errors import ConflictError, ControlPlaneError
from controlplane.store.store import ArtifactStore, OwnerKey, Stored


class CountedStore:
    """An ArtifactStore whose failures show as metrics; a conflict is none. Owns the other one."""

    def __init__(self, store: ArtifactStore, registry: CollectorRegistry) -> None:
        self._store = store
        self._errors = Counter(
            "agentcube_snapshot_store_errors",
            "Operations of the artifact store (get, put, delete, list) that failed; a lost race is "
            "none.",
            ("op",),
            registry=registry,
        )

    async def get(self, key: OwnerKey) -> Stored | None:
        """See ArtifactStore."""
        with self._counting("get"):
            return await self._store.get(key)

    async def put(self, key: OwnerKey, manifest: Manifest, version: str | None) -> str:
        """See ArtifactStore."""
        with self._counting("put"):
            return await self._store.put(key, manifest, version)

    async def delete(self, key: OwnerKey, version: str | None = None) -> None:
        """See ArtifactStore."""
        with self._counting("delete"):
            await self._store.delete(key, version)

    async def list(self) -> AsyncIterator[OwnerKey]:
        """See ArtifactStore."""
        with self._counting("list"):
            async for key in self._store.list():
                yield key

    async def close(self) -> None:
        """See ArtifactStore."""
        await self._store.close()

    @contextmanager
    def _counting(self, operation: str) -> Iterator[None]:
        try:
            yield
        except ConflictError:
            raise
        except ControlPlaneError:
            self._errors.labels(operation).inc()
            raise
