"""A store in memory that misbehaves on request; no double of Redis, only of the contract."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from controlplane.api.manifest import Manifest
from controlplane.errors import ConflictError, UnavailableError
from controlplane.store import codec
from controlplane.store.store import OwnerKey, Stored


class StoreFault(enum.StrEnum):
    """How the next operation goes wrong."""

    UNAVAILABLE = "unavailable"  # nothing happened
    LOST_REPLY = "lost_reply"  # it happened, the caller sees UnavailableError
    CONFLICT = "conflict"  # a write is refused although the version was right
    STALE = "stale"  # a read gives what was there one write earlier, as a lagging replica would


class MemoryStore:
    """The contract without an event loop: a simulation drives it step by step.

    reads, writes: how many reached the data. on_step: called before each operation with its name,
    to crash or to interleave there.
    """

    def __init__(self, on_step: Callable[[str], None] | None = None) -> None:
        self.texts: dict[str, bytes] = {}
        self.reads = 0
        self.writes = 0
        self._before: dict[str, bytes | None] = {}
        self._faults: dict[str, deque[StoreFault]] = {}
        self._is_down = False
        self._on_step = on_step

    def fail_next(self, operation: str, *faults: StoreFault) -> None:
        """Spoil the coming calls of get, put, delete or list, one fault each."""
        self._faults.setdefault(operation, deque()).extend(faults)

    def set_down(self, is_down: bool) -> None:
        """From now on nothing answers, or everything does again."""
        self._is_down = is_down

    def get(self, key: OwnerKey) -> Stored | None:
        """As ArtifactStore.get."""
        fault = self._enter("get")
        self.reads += 1
        self._raise_lost(fault)
        raw = self.texts.get(str(key))
        raw = self._before.get(str(key), raw) if fault is StoreFault.STALE else raw
        return None if raw is None else codec.decode(key, raw)

    def put(self, key: OwnerKey, manifest: Manifest, version: str | None) -> str:
        """As ArtifactStore.put."""
        fault = self._enter("put")
        text = codec.encode(key, manifest, version)
        wanted = None if version is None else version.encode()
        if fault is StoreFault.CONFLICT or self.texts.get(str(key)) != wanted:
            raise ConflictError(f"{key} was written by another")
        self._write(key, text.encode())
        self._raise_lost(fault)
        return text

    def delete(self, key: OwnerKey, version: str | None = None) -> None:
        """As ArtifactStore.delete."""
        fault = self._enter("delete")
        current = self.texts.get(str(key))
        is_other = version is not None and current not in (None, version.encode())
        if fault is StoreFault.CONFLICT or is_other:
            raise ConflictError(f"{key} was written by another")
        if current is not None:
            self._write(key, None)
        self._raise_lost(fault)

    def list(self) -> Iterator[OwnerKey]:
        """As ArtifactStore.list."""
        self._raise_lost(self._enter("list"))
        keys = [OwnerKey.parse(text) for text in self.texts]
        yield from (key for key in keys if key is not None)

    def _write(self, key: OwnerKey, raw: bytes | None) -> None:
        self.writes += 1
        self._before[str(key)] = self.texts.pop(str(key), None)
        if raw is not None:
            self.texts[str(key)] = raw

    def _enter(self, operation: str) -> StoreFault | None:
        if self._on_step is not None:
            self._on_step(operation)
        queue = self._faults.get(operation)
        fault = queue.popleft() if queue else None
        if self._is_down or fault is StoreFault.UNAVAILABLE:
            raise UnavailableError(f"the store is away: {operation}")
        return fault

    @staticmethod
    def _raise_lost(fault: StoreFault | None) -> None:
        if fault is StoreFault.LOST_REPLY:
            raise UnavailableError("the store's reply was lost")


class FakeStore:
    """An ArtifactStore over a MemoryStore, which several may share."""

    def __init__(self, memory: MemoryStore | None = None) -> None:
        self._memory = memory or MemoryStore()
        self.is_closed = False

    @property
    def memory(self) -> MemoryStore:
        """The data and its faults; out of reach once this is closed."""
        if self.is_closed:
            raise UnavailableError("the store is closed")
        return self._memory

    async def get(self, key: OwnerKey) -> Stored | None:
        """See ArtifactStore."""
        return self.memory.get(key)

    async def put(self, key: OwnerKey, manifest: Manifest, version: str | None) -> str:
        """See ArtifactStore."""
        return self.memory.put(key, manifest, version)

    async def delete(self, key: OwnerKey, version: str | None = None) -> None:
        """See ArtifactStore."""
        self.memory.delete(key, version)

    async def list(self) -> AsyncIterator[OwnerKey]:
        """See ArtifactStore."""
        for key in self.memory.list():
            yield key

    async def close(self) -> None:
        """See ArtifactStore."""
        self.is_closed = True
