"""Do what an agent does on a node whose Pods a Kuasar sandboxer runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final

from agentd.engine.trace import Tracer
from agentd.health import Health
from agentd.kuasar.access import SandboxerAccess
from agentd.kuasar.cri import Cri
from agentd.kuasar.probe import Probe
from agentd.node.restore_watch import RestoreWatch
from agentd.node.sandboxer_condition import SANDBOXER, SandboxerCondition
from agentd.node.work import Work
from agentd.providers.kuasar import KuasarDriver
from agentd.providers.ledger import Ledger
from agentd.proxy.limits import Deadlines
from agentd.proxy.run import Outside as ProxyOutside
from agentd.proxy.run import run_proxy
from agentd.settings import Settings
from controlplane.api.meta import JsonObject
from controlplane.kube.resource import NODES

_WITHDRAW_S: Final = 3.0


class KuasarPart:
    """Owns the driver, which outlives every connection to a cluster; `close` ends it.

    Args: environ: of the process. now: aware, in UTC. health: told of the sandboxer.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        tracer: Tracer,
        now: Callable[[], datetime],
        health: Health,
    ) -> None:
        self._settings = settings
        self._health = health
        self._environ = environ
        self._tracer = tracer
        self._now = now
        kuasar = settings.kuasar
        self._access = SandboxerAccess(kuasar, self._tell)
        ledger = Ledger(settings.data_dir / "kuasar")
        self.driver = KuasarDriver(
            self._access, ledger, name=kuasar.provider, create_s=kuasar.create_s
        )

    def _tell(self, found: Probe) -> None:
        self._tracer.step(
            "kuasar.probed", standing=found.standing.value, detail=found.detail, hint=found.hint
        )

    async def join(self, work: Work) -> None:
        """Begin what needs the cluster. Raises: ControlPlaneError."""
        self._watch_restores(work)
        self._tell_condition(work)
        if self._settings.proxy.enabled:
            node = await work.kube.get(NODES, work.place.node_name)
            outside = self._proxy_outside(work, _addresses_of(node))
            work.jobs["admin-proxy"] = lambda: run_proxy(outside)

    def _watch_restores(self, work: Work) -> None:
        watch = RestoreWatch(
            work.kube,
            self._access,
            self._settings.kuasar,
            work.place,
            work.events,
            self._tracer,
            self._now,
        )
        watch.start()
        work.down.push_async_callback(watch.close)
        work.jobs["restores"] = watch.run

    def _tell_condition(self, work: Work) -> None:
        condition = SandboxerCondition(
            work.kube, self._settings.kuasar, work.place.node_name, self._tracer, self._now
        )

        async def withdraw() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_WITHDRAW_S):
                    await condition.withdraw()

        work.down.push_async_callback(withdraw)
        work.jobs["sandboxer-condition"] = condition.run
        self._health.add(SANDBOXER, condition.look)

    def _proxy_outside(self, work: Work, addresses: frozenset[str]) -> ProxyOutside:
        return ProxyOutside(
            settings=self._settings.proxy,
            environ=self._environ,
            node_name=work.place.node_name,
            node_addresses=addresses,
            cluster=work.place.cluster,
            driver=self.driver,
            access=self._access,
            pods=Cri(self._settings.kuasar.cri_socket),
            deadlines=Deadlines(create_s=self._settings.kuasar.create_s),
            now=self._now,
        )

    async def close(self) -> None:
        """Wait for the snapshot that is being made, half as long as the whole agent may take."""
        left = await self.driver.close(wait_s=self._settings.stop.builds_s / 2)
        if left:
            self._tracer.step("kuasar.left", what=left)


def _addresses_of(node: JsonObject) -> frozenset[str]:
    found = (node.get("status") or {}).get("addresses") or ()
    return frozenset(str(one["address"]) for one in found if one.get("address"))
