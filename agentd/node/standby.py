"""Serve the addresses of Pods while the API server cannot be asked about them."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from agentd.engine.engine import Engine
from agentd.engine.session import Machine, Session
from agentd.engine.trace import Tracer
from agentd.errors import SnapStartError
from agentd.node.addresses import Addresses
from agentd.node.forwarder import Forwarder
from agentd.providers.local import POD_UID

PORTS = "ports"


class Standby:
    """Owns a forwarder for each adopted session of a Pod, from what the journal says of it."""

    def __init__(self, engine: Engine, addresses: Addresses, tracer: Tracer) -> None:
        self._engine = engine
        self._addresses = addresses
        self._tracer = tracer
        self._forwarders: list[Forwarder] = []

    async def start(self) -> None:
        """Listen for every Pod that has a machine; one that cannot be served is reported."""
        for session in self._engine.sessions.list():
            labels = session.facts.labels
            if POD_UID in labels and labels.get("pod-ip") and labels.get(PORTS):
                await self._serve(session)

    async def _serve(self, session: Session) -> None:
        labels = session.facts.labels
        ports = tuple(int(port) for port in labels[PORTS].split(","))

        def use() -> AbstractAsyncContextManager[Machine]:
            return self._engine.sessions.use(session.id)

        forwarder = Forwarder(labels["pod-ip"], ports, use, self._tracer)
        try:
            await self._addresses.add(labels["pod-ip"])
            await forwarder.start()
        except SnapStartError as exc:
            self._tracer.step("standby.failed", session=session.id, error=str(exc))
        else:
            self._forwarders.append(forwarder)

    async def close(self) -> None:
        """Make room for the Pods' own forwarders. Idempotent."""
        forwarders, self._forwarders = self._forwarders, []
        for forwarder in forwarders:
            await forwarder.close()
