"""Read what bears on a task from the API server and its driver."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from agentd.errors import SnapStartError
from agentd.node.failures import classify_failure
from agentd.node.task_types import Observed
from agentd.providers.driver import LocalArtifact, SnapshotDriver
from controlplane.api.core import Pod, Sandbox
from controlplane.api.types import (
    SandboxSnapshot,
    SandboxSnapshotTask,
    SnapshotMode,
    TaskOperation,
)
from controlplane.errors import NotFoundError
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import PODS, SNAPSHOTS, Resource
from controlplane.kube.sandboxes import pod_name

T = TypeVar("T")
LIGHT_S: Final = 30.0


@dataclass(frozen=True)
class Place:
    """Where this agent is. cluster: UID of the kube-system namespace. sandboxes: as discovered."""

    node_name: str
    cluster: str
    sandboxes: Resource


class Look:
    """Looks at tasks; keeps nothing. Args: drivers: by provider name."""

    def __init__(self, kube: KubeApi, drivers: Mapping[str, SnapshotDriver], place: Place) -> None:
        self._kube = kube
        self._drivers = drivers
        self._place = place

    async def at(self, task: SandboxSnapshotTask) -> Observed:
        """What bears on a task now. Raises: ControlPlaneError."""
        spec, namespace = task.spec, task.metadata.namespace
        place = self._place
        driver = self._drivers.get(spec.provider_name)
        snapshot = await self._get(SNAPSHOTS, spec.snapshot_ref.name, namespace, SandboxSnapshot)
        sandbox = pod = None
        if spec.operation is TaskOperation.CREATE:
            name = spec.target_sandbox_ref.name
            sandbox = await self._get(place.sandboxes, name, namespace, Sandbox)
        if sandbox is not None:
            pod = await self._get(PODS, pod_name(sandbox), namespace, Pod)
        artifact, problem = await self._inspect(driver, spec.snapshot_key)
        return Observed(
            task=task,
            node_name=place.node_name,
            cluster=place.cluster,
            capabilities=await self._capabilities(),
            snapshot=snapshot,
            sandbox=sandbox,
            pod=pod,
            artifact=artifact,
            artifact_problem=problem,
        )

    async def _get(self, resource: Resource, name: str, namespace: str, kind: type[T]) -> T | None:
        """From the server, never from a copy. Raises: ControlPlaneError but for its absence."""
        if not name:
            return None
        try:
            body = await self._kube.get(resource, name, namespace)
        except NotFoundError:
            return None
        return msgspec.convert(body, kind, strict=False)

    async def _capabilities(self) -> dict[str, frozenset[SnapshotMode]]:
        return {name: await _modes_of(driver) for name, driver in self._drivers.items()}

    @staticmethod
    async def _inspect(driver: SnapshotDriver | None, key: str) -> tuple[LocalArtifact | None, str]:
        """An error is never "absent"."""
        if driver is None or not key:
            return None, ""
        try:
            async with asyncio.timeout(LIGHT_S):
                return await driver.inspect(key), ""
        except (SnapStartError, TimeoutError) as exc:
            return None, f"looking for the artifact: {classify_failure(exc).message}"


async def _modes_of(driver: SnapshotDriver) -> frozenset[SnapshotMode]:
    """One that does not say in time can do nothing now."""
    try:
        async with asyncio.timeout(LIGHT_S):
            return await driver.capabilities()
    except TimeoutError:
        return frozenset()
