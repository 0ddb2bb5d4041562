"""What is asked of a Kuasar sandboxer, whichever form it speaks."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from controlplane.api.types import SnapshotMode


class Form(enum.StrEnum):
    """Which snapshot interface a sandboxer has; the values are for people and labels."""

    JSON = "template-create"
    GRPC = "ssi.v1alpha1"


@dataclass(frozen=True)
class PodRef:
    """Whose sandbox is meant. sandbox_id: the CRI's, where the caller knows it already."""

    uid: str
    namespace: str
    name: str
    sandbox_id: str = ""

    def __str__(self) -> str:
        return f"Pod {self.namespace}/{self.name} ({self.uid})"


@dataclass(frozen=True)
class KuasarTemplate:
    """One snapshot in a sandboxer's store; several may have one key.

    mode: None for a kind that no SnapshotMode names, such as a bare machine. template_id: empty,
    created_at_s: None (else seconds since the epoch) where the form does not tell.
    """

    key: str
    mode: SnapshotMode | None
    template_id: str = ""
    created_at_s: int | None = None


@dataclass(frozen=True)
class KuasarSandbox:
    """A Pod's sandbox as its sandboxer sees it.

    pod_uid: empty where the form does not tell. status: created, running, paused, stopped, unknown.
    is_restored: whether it began from a snapshot.
    """

    sandbox_id: str
    pod_uid: str
    status: str
    is_restored: bool


@dataclass(frozen=True)
class PoolStatus:
    """The store of templates. uses: running sandboxes that need a template, by its id."""

    total: int
    uses: Mapping[str, int]


class KuasarClient(Protocol):
    """One sandboxer. Every call is a connection of its own, since it may be replaced at any time.

    Raises, from every method: TransientError PROVIDER_UNREACHABLE, DEADLINE_EXCEEDED;
    ConfigError PERMISSION_DENIED; PeerError PROVIDER_PROTOCOL for an answer that is none,
    PROVIDER_FAILED for one that says so; what else is said by the method.
    """

    @property
    def form(self) -> Form:
        """What it speaks."""

    async def modes(self) -> frozenset[SnapshotMode]:
        """The modes that can work here as far as it can be asked.

        An upper bound: neither form tells how its node is configured. Raises: ConfigError
        PROVIDER_UNABLE when there is no pool.
        """

    async def pool(self) -> PoolStatus:
        """The pool's status. Raises: ConfigError PROVIDER_UNABLE when there is no pool."""

    async def sandboxes(self) -> list[KuasarSandbox]:
        """Every sandbox.

        Waits for a snapshot that is being made, and keeps Pods from starting meanwhile: never to be
        called while one may be.
        """

    async def create(self, pod: PodRef, key: str, mode: SnapshotMode) -> None:
        """Snapshot a Pod's sandbox; takes minutes.

        Not idempotent: a second call under one key makes a second template. Must not be cancelled:
        a guest could stay paused. Raises: UsageError, ConfigError, TransientError as `failures`
        says; after any error the snapshot may be there all the same.
        """

    async def find(self, key: str) -> list[KuasarTemplate]:
        """Every snapshot of a key that can still be restored, newest first where that is told."""

    async def list(self) -> list[KuasarTemplate]:
        """Every snapshot that can still be restored."""

    async def remove(self, template: KuasarTemplate) -> None:
        """Ask once to remove it. Only `find` tells whether it is gone."""


class PodSandboxes(Protocol):
    """Who knows which sandbox is whose: the container runtime. Raises: as KuasarClient."""

    async def sandbox_of(self, pod: PodRef) -> str:
        """The id of a Pod's live sandbox. Raises: TransientError GUEST_NOT_READY: none yet."""

    async def pod_uids(self) -> dict[str, str]:
        """The Pods' UIDs by the ids of their live sandboxes."""


class KuasarAccess(Protocol):
    """The way to a node's sandboxer, which may be replaced by one of another form at any time.

    turn: held while a snapshot is made or `sandboxes` is asked, never both.
    """

    turn: asyncio.Lock

    async def client(self) -> KuasarClient:
        """One that speaks what the sandboxer there now speaks. Raises: why there is none."""

    async def require_settled(self) -> None:
        """Raises: TransientError PROVIDER_UNREACHABLE while it may still recover its sandboxes."""
