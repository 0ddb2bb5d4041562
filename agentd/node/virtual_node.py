"""Keep this daemon's own Node registered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from agentd.engine.trace import Tracer
from agentd.node.node_object import (
    NodeFacts,
    is_same_status,
    is_virtual,
    new_node,
    node_status,
    plan_repair,
)
from controlplane.api.meta import JsonObject
from controlplane.errors import AlreadyExistsError, ConflictError, ControlPlaneError, NotFoundError
from controlplane.kube.api import KubeApi
from controlplane.kube.resource import NODES

LOOK_S: Final = 30.0
HEARTBEAT: Final = timedelta(minutes=5)


class VirtualNode:
    """Registers the Node, repairs it, reports its state.

    Args: problem: why no machine can be started now, empty when one can. now: UTC.
    """

    def __init__(
        self,
        kube: KubeApi,
        facts: NodeFacts,
        problem: Callable[[], Awaitable[str]],
        tracer: Tracer,
        now: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._facts = facts
        self._problem = problem
        self._tracer = tracer
        self._now = now
        self._reported_at: datetime | None = None

    async def register(self) -> str:
        """See to it that the Node is there and says what it should. Returns: its UID.

        Raises: ConflictError when there is a Node of that name that is none of ours; as KubeApi.
        """
        node = await self._find()
        if not is_virtual(node):
            raise ConflictError(
                f"registering virtual Node {self._facts.name!r}: a kubelet's Node has that name",
                hint="give node.name another value",
            )
        patch = plan_repair(node, self._facts)
        if patch is not None:
            node = await self._kube.merge(NODES, self._facts.name, patch)
        await self._report(node)
        return str(node["metadata"]["uid"])

    async def _find(self) -> JsonObject:
        try:
            return await self._kube.get(NODES, self._facts.name)
        except NotFoundError:
            pass
        try:
            node = await self._kube.create(NODES, new_node(self._facts))
        except AlreadyExistsError:
            return await self._kube.get(NODES, self._facts.name)
        self._tracer.step("node.registered", node=self._facts.name)
        return node

    async def _report(self, node: JsonObject) -> None:
        before, now = node.get("status") or {}, self._now()
        wanted = node_status(self._facts, before, await self._problem(), now)
        is_due = self._reported_at is None or now - self._reported_at >= HEARTBEAT
        if not is_due and is_same_status(before, wanted):
            return
        await self._kube.merge(NODES, self._facts.name, {"status": wanted}, subresource="status")
        self._reported_at = now

    async def run(self) -> None:
        """Look after the Node for ever. Cancellation: leaves it registered."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.register()
            except ControlPlaneError as exc:
                self._tracer.step("node.failed", node=self._facts.name, error=str(exc))
