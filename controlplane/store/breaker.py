"""Bound the time that a session start can lose to the store.

Closed, reads go through, each within the budget. After some failures in a row it opens: reads fail
at once, without a look at the store. When that time is over a single read goes through as a probe,
the others still fail; it closes the breaker, or opens it for as long again.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from controlplane.api.manifest import Manifest
from controlplane.errors import CorruptError, UnavailableError
from controlplane.store.store import ArtifactStore, OwnerKey, Stored


class BreakerState(enum.StrEnum):
    """Whether reads get to the store."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True)
class BreakerLimits:
    """budget_s: of one read; a whole lookup has 0.2 s. failures: in a row, until it opens.

    open_s: how long it stays so.
    """

    budget_s: float = 0.15
    failures: int = 3
    open_s: float = 10.0


class BreakerStore:
    """An ArtifactStore for the request path. Reads are guarded; all else passes unchanged.

    store: owned; closed by `close`. clock: monotonic seconds.
    """

    def __init__(
        self,
        store: ArtifactStore,
        clock: Callable[[], float],
        limits: BreakerLimits | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits or BreakerLimits()
        self._failures = 0
        self._open_until: float | None = None
        self._is_probing = False

    @property
    def state(self) -> BreakerState:
        """As a read would find it now."""
        if self._open_until is None:
            return BreakerState.CLOSED
        is_open = self._is_probing or self._clock() < self._open_until
        return BreakerState.OPEN if is_open else BreakerState.HALF_OPEN

    async def get(self, key: OwnerKey) -> Stored | None:
        """As ArtifactStore.get, within the budget; UnavailableError at once while it is open."""
        state = self.state
        if state is BreakerState.OPEN:
            raise UnavailableError(
                f"reading {key}: the store failed {self._failures} times in a row, it is left "
                "alone for now",
                delay_s=self._remaining_s(),
            )
        if state is BreakerState.CLOSED:
            return await self._observe(key)
        self._is_probing = True
        try:
            return await self._observe(key)
        finally:
            self._is_probing = False

    async def put(self, key: OwnerKey, manifest: Manifest, version: str | None) -> str:
        """See ArtifactStore."""
        return await self._store.put(key, manifest, version)

    async def delete(self, key: OwnerKey, version: str | None = None) -> None:
        """See ArtifactStore."""
        await self._store.delete(key, version)

    def list(self) -> AsyncIterator[OwnerKey]:
        """See ArtifactStore."""
        return self._store.list()

    async def close(self) -> None:
        """See ArtifactStore."""
        await self._store.close()

    async def _observe(self, key: OwnerKey) -> Stored | None:
        """A caller that gives up says nothing of the store; a corrupt text says that it answers."""
        try:
            stored = await self._read(key)
        except UnavailableError:
            self._fail()
            raise
        except CorruptError:
            self._succeed()
            raise
        self._succeed()
        return stored

    async def _read(self, key: OwnerKey) -> Stored | None:
        budget_s = self._limits.budget_s
        try:
            async with asyncio.timeout(budget_s):
                return await self._store.get(key)
        except TimeoutError as exc:
            raise UnavailableError(
                f"reading {key}: the store gave no answer within {budget_s:g} s"
            ) from exc

    def _fail(self) -> None:
        self._failures += 1
        if self._failures >= self._limits.failures:
            self._open_until = self._clock() + self._limits.open_s

    def _succeed(self) -> None:
        self._failures = 0
        self._open_until = None

    def _remaining_s(self) -> float:
        return max(0.0, (self._open_until or 0.0) - self._clock())
