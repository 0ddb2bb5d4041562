"""A Kuasar node of either form, as a stand-in speaks it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from agentd.kuasar.access import SandboxerAccess
from agentd.kuasar.client import Form
from agentd.providers.driver import SnapshotDriver
from tests.adapters.providers.kuasar_world import (
    KuasarWorld,
    kuasar_world,
    settings_of,
    under_way,
)
from tests.contract.drivers.world import Build
from tests.fakes.kuasar.node import KuasarNode
from tests.fakes.kuasar.sandboxer import Sandbox


class KuasarLeg:
    """Implements `tests.contract.drivers.world.DriverWorld`."""

    def __init__(self, world: KuasarWorld) -> None:
        self._world = world
        self._sessions: list[Sandbox] = []

    @property
    def driver(self) -> SnapshotDriver:
        """Of the agent that runs now."""
        return self._world.driver

    async def start_build(self) -> Build:
        """See DriverWorld."""
        request = self._world.request()
        return Build(request.pod_uid, request.pod_name)

    async def start_session(self, key: str) -> None:
        """See DriverWorld."""
        session = self._world.sandboxer.restore(key, f"uid-session-{len(self._sessions)}")
        assert session.is_forked
        self._sessions.append(session)

    async def end_sessions(self) -> None:
        """See DriverWorld."""
        while self._sessions:
            self._world.sandboxer.end(self._sessions.pop())

    async def end_builds(self) -> None:
        """See DriverWorld."""
        for sandbox in list(self._world.sandboxer.sandboxes.values()):
            if not sandbox.is_forked:
                self._world.sandboxer.end(sandbox)

    async def make_unordered(self, key: str) -> None:
        """See DriverWorld."""
        await self._world.add_template(key)

    async def take_away(self, key: str) -> None:
        """See DriverWorld. As the sandboxer evicts it."""
        for template in self._world.templates(key):
            self._world.sandboxer.remove(template)

    async def restart_agent(self) -> None:
        """See DriverWorld."""
        await self._world.driver.close()
        self._world.successor()
        await self._world.settle()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """See DriverWorld. Its sockets are there, and nobody serves them."""
        await self._world.node.stop()
        try:
            yield
        finally:
            await self._world.node.start()
            await self._world.settle()

    def held(self) -> Mapping[str, int]:
        """See DriverWorld."""
        return Counter(one.key for one in self._world.sandboxer.templates.values())

    def left_over(self) -> list[str]:
        """See DriverWorld."""
        sandboxes = self._world.sandboxer.sandboxes.values()
        return under_way() + [f"sandbox {one.id}, paused: {one.is_paused}" for one in sandboxes]


@asynccontextmanager
async def kuasar_leg(directory: Path, form: Form) -> AsyncIterator[KuasarLeg]:
    """One whose sandboxer serves; reached as in production."""

    def access(node: KuasarNode) -> SandboxerAccess:
        return SandboxerAccess(settings_of(node), settle_s=0.0)

    async with kuasar_world(directory, form, make_access=access) as world:
        yield KuasarLeg(world)
