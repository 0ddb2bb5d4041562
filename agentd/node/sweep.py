"""Delete artifacts whose snapshot is gone for good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from agentd.engine.trace import Tracer
from agentd.errors import SnapStartError
from agentd.providers.driver import LocalArtifact, SnapshotDriver, SnapshotOwner
from controlplane.errors import ControlPlaneError, NotFoundError
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import SNAPSHOTS

EVERY_S: Final = 3600.0
GRACE: Final = timedelta(minutes=15)


def choose_suspects(
    artifacts: Iterable[LocalArtifact], cluster: str, now: datetime
) -> list[tuple[LocalArtifact, SnapshotOwner]]:
    """The artifacts to ask about: this cluster ordered them, and not just now.

    One without an owner, of another cluster, or of unknown age is nobody's to delete here.
    """
    return [
        (artifact, artifact.owner)
        for artifact in artifacts
        if artifact.owner is not None
        and artifact.owner.cluster == cluster
        and artifact.created_at is not None
        and now - artifact.created_at > GRACE
        and not artifact.leases
    ]


class Sweep:
    """Looks for orphans once at each call of `run`."""

    def __init__(
        self,
        kube: KubeApi,
        drivers: Mapping[str, SnapshotDriver],
        cluster: str,
        tracer: Tracer,
        now: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._drivers = drivers
        self._cluster = cluster
        self._tracer = tracer
        self._now = now

    async def run(self) -> int:
        """Delete what is orphaned; whatever cannot be told stays. Returns: how many went."""
        gone = 0
        for driver in self._drivers.values():
            try:
                artifacts = await driver.list()
            except SnapStartError as exc:
                self._tracer.step("sweep.failed", provider=driver.name, error=str(exc))
                continue
            for artifact, owner in choose_suspects(artifacts, self._cluster, self._now()):
                gone += await self._sweep(driver, artifact, owner)
        return gone

    async def _sweep(
        self, driver: SnapshotDriver, artifact: LocalArtifact, owner: SnapshotOwner
    ) -> bool:
        try:
            if not await self._is_gone(owner):
                return False
            await driver.delete(artifact.key)
        except (SnapStartError, ControlPlaneError) as exc:
            self._tracer.step("sweep.failed", artifact=artifact.key, error=str(exc))
            return False
        self._tracer.step("sweep.deleted", artifact=artifact.key, snapshot=owner.snapshot_name)
        return True

    async def _is_gone(self, owner: SnapshotOwner) -> bool:
        """Only the server's own word counts. Raises: ControlPlaneError."""
        try:
            body = await self._kube.get(SNAPSHOTS, owner.snapshot_name, owner.namespace)
        except NotFoundError:
            # A server that does not serve the kind, or not yet, says so of every object.
            await self._kube.list(SNAPSHOTS, namespace=owner.namespace)
            return True
        uid = (body.get("metadata") or {}).get("uid")
        return bool(uid) and uid != owner.snapshot_uid
