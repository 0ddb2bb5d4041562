"""Keep the addresses of Pods served, whoever looks after the Pods at the moment.

A forwarder lives as long as its Pod has an address, not as long as the work for the cluster does:
connections outlive a lost API server, a failed watch, and the handover from what the journal says
to what the API server says.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager

from agentd.engine.engine import Engine
from agentd.engine.session import Machine, Session
from agentd.engine.trace import Tracer
from agentd.errors import SnapStartError
from agentd.node.addresses import Addresses
from agentd.node.forwarder import Forwarder
from agentd.node.pod_machines import find_session, sessions_of_pods
from agentd.providers.local import POD_UID

POD_IP = "pod-ip"
PORTS = "ports"


class Forwarders:
    """Owns a forwarder for each Pod that is served, by the Pod's UID."""

    def __init__(self, engine: Engine, addresses: Addresses, tracer: Tracer) -> None:
        self._engine = engine
        self._addresses = addresses
        self._tracer = tracer
        self._served: dict[str, Forwarder] = {}

    async def serve(self, pod_uid: str, address: str, ports: tuple[int, ...]) -> None:
        """Listen for a Pod until `drop`, at this address instead of one before. Idempotent.

        Connections go to the newest machine of the Pod; while there is none they are closed.
        Raises: ConfigError or TransientError when the address or a port cannot be had.
        """
        before = self._served.get(pod_uid)
        if before is not None and (before.address, before.ports) == (address, ports):
            return
        await self.drop(pod_uid)

        def use() -> AbstractAsyncContextManager[Machine]:
            session = find_session(self._engine, pod_uid)
            return self._engine.sessions.use("" if session is None else session.id)

        forwarder = Forwarder(address, ports, use, self._tracer)
        await self._addresses.add(address)
        await forwarder.start()
        self._served[pod_uid] = forwarder

    async def serve_adopted(self) -> None:
        """Listen for every Pod that has a machine; one that cannot be served is reported."""
        for session in sessions_of_pods(self._engine):
            labels = session.facts.labels
            if labels.get(POD_IP) and labels.get(PORTS):
                await self._serve_adopted(session)

    async def _serve_adopted(self, session: Session) -> None:
        labels = session.facts.labels
        ports = tuple(int(port) for port in labels[PORTS].split(","))
        try:
            await self.serve(labels[POD_UID], labels[POD_IP], ports)
        except SnapStartError as exc:
            self._tracer.step("forward.refused", session=session.id, error=str(exc))

    async def drop(self, pod_uid: str) -> None:
        """Stop listening for a Pod, cut its connections. Idempotent."""
        forwarder = self._served.pop(pod_uid, None)
        if forwarder is not None:
            await forwarder.close()

    async def keep_only(self, pod_uids: Collection[str]) -> None:
        """Drop every other Pod."""
        for pod_uid in [uid for uid in self._served if uid not in pod_uids]:
            await self.drop(pod_uid)

    async def close(self) -> None:
        """Drop them all. Idempotent."""
        await self.keep_only(())
