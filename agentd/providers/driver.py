"""Define what a snapshot provider offers on a node."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from controlplane.api.types import SnapshotMode


@dataclass(frozen=True)
class SnapshotOwner:
    """On whose behalf an artifact exists.

    cluster: UID of the kube-system namespace, which tells clusters apart.
    """

    cluster: str
    namespace: str
    snapshot_name: str
    snapshot_uid: str


@dataclass(frozen=True)
class CreateRequest:
    """What to snapshot. pod_uid: of the build Sandbox's Pod. key: the artifact's name."""

    pod_uid: str
    pod_namespace: str
    pod_name: str
    key: str
    snapshot_hash: str
    mode: SnapshotMode
    owner: SnapshotOwner


@dataclass(frozen=True)
class LocalArtifact:
    """An artifact on this node. owner: None if it was not made by order of a cluster.

    mode: None if the provider reports one that is not known here. leases: running VMs that need it.
    """

    key: str
    snapshot_hash: str
    mode: SnapshotMode | None
    is_ready: bool
    leases: int
    created_at: datetime | None
    owner: SnapshotOwner | None


class SnapshotDriver(Protocol):
    """One provider. Errors are those of `agentd.errors`; an error is never "absent".

    The caller's deadline and cancellation rule: a method ends, with nothing half-made left behind
    or with its work taken up again by the next call of the same key.
    """

    @property
    def name(self) -> str:
        """The provider's name, such as `snapstart.qemu.org`."""

    async def capabilities(self) -> frozenset[SnapshotMode]:
        """The modes that work here now, checked; empty if none does."""

    async def create(self, request: CreateRequest) -> LocalArtifact:
        """Snapshot a Pod's machine; returns when the artifact no longer needs that Pod.

        Idempotent by key with the same hash. Raises: SnapStartError; GUEST_CONTAMINATED and other
        final refusals by their code.
        """

    async def delete(self, key: str) -> bool:
        """Remove; False if there was none. Raises: TEMPLATE_IN_USE while it is leased."""

    async def list(self) -> list[LocalArtifact]:
        """Everything there."""

    async def inspect(self, key: str) -> LocalArtifact | None:
        """One, checked as far as a restore would check it; None if it is absent."""
