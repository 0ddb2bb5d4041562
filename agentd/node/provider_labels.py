"""Tell on this machine's Node which snapshot providers work here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from agentd.engine.trace import Tracer
from agentd.errors import SnapStartError
from agentd.providers.driver import SnapshotDriver
from controlplane.api import names
from controlplane.errors import ControlPlaneError
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import NODES

EVERY_S: Final = 60.0
GRACE_S: Final = 90.0
_CHECK_S: Final = 30.0


def plan_labels(found: Mapping[str, str], able: frozenset[str]) -> dict[str, str | None]:
    """The labels to merge so that exactly the able providers are advertised.

    found: all labels of the Node. None removes a label (RFC 7386).
    """
    wanted = {names.provider_label(name): "true" for name in able}
    stale = [
        label
        for label in found
        if label.startswith(names.PROVIDER_LABEL_PREFIX) and label not in wanted
    ]
    changes: dict[str, str | None] = {k: v for k, v in wanted.items() if found.get(k) != v}
    return changes | dict.fromkeys(stale)


class ProviderLabels:
    """Advertises what was checked. clock: seconds, monotonic."""

    def __init__(
        self,
        kube: KubeApi,
        drivers: Mapping[str, SnapshotDriver],
        node_name: str,
        tracer: Tracer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._drivers = drivers
        self._node_name = node_name
        self._tracer = tracer
        self._clock = clock
        self._able_at: dict[str, float] = {}

    async def refresh(self) -> None:
        """Check every provider, then the Node's labels. Raises: as KubeApi."""
        for name, driver in self._drivers.items():
            if await self._is_able(driver):
                self._able_at[name] = self._clock()
        now_s = self._clock()
        able = {name for name, at_s in self._able_at.items() if now_s - at_s <= GRACE_S}
        await self._advertise(frozenset(able))

    @staticmethod
    async def _is_able(driver: SnapshotDriver) -> bool:
        try:
            async with asyncio.timeout(_CHECK_S):
                return bool(await driver.capabilities())
        except (SnapStartError, TimeoutError):
            return False

    async def _advertise(self, able: frozenset[str]) -> None:
        node = await self._kube.get(NODES, self._node_name)
        changes = plan_labels(node["metadata"].get("labels") or {}, able)
        if changes:
            patch = {"metadata": {"labels": changes}}
            await self._kube.merge(NODES, self._node_name, patch)
            self._tracer.step("node.labels", node=self._node_name, providers=",".join(sorted(able)))

    async def run(self) -> None:
        """Refresh for ever."""
        while True:
            try:
                await self.refresh()
            except ControlPlaneError as exc:
                self._tracer.step("node.labels.failed", error=str(exc))
            await asyncio.sleep(EVERY_S)

    async def withdraw(self) -> None:
        """Take the labels away; who stops cannot build. Failures are left to the Lease."""
        try:
            await self._advertise(frozenset())
        except ControlPlaneError as exc:
            self._tracer.step("node.labels.failed", error=str(exc))
