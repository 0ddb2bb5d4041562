"""The embedded provider: machines of an engine of our own."""

from __future__ import annotations

import itertools
import resource
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd import native
from agentd.engine.engine import Engine, Outside
from agentd.engine.plans import least_memory_mib
from agentd.engine.session import EndReason
from agentd.engine.session_orders import OwnSession
from agentd.image import Image
from agentd.monitors import make_qemu
from agentd.providers.driver import SnapshotDriver
from agentd.providers.local import POD_UID, LocalDriver
from agentd.settings import Settings
from agentd.store.templates import TemplateStore
from agentd.wire.api import CreateTemplate, TemplateState
from agentd.wire.manifest import Machine
from tests.adapters.node.world import Trace
from tests.contract.drivers.world import Build
from tests.fakes.daemon import make_image, make_settings, until
from tests.fakes.vmm import FakeVmm

_DEADLINE_S = 60.0


@dataclass(frozen=True)
class Host:
    """Where machines run. image: what they boot. make_vmm: opens the monitor, a real one or not."""

    settings: Settings
    image: str
    memory_mib: int
    make_vmm: Callable[[], Any]


class QemuWorld:
    """Implements `tests.contract.drivers.world.DriverWorld`; use within `qemu_world`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._ids = itertools.count(1)
        self._is_away = False
        self._agent = _Agent(host)
        self._driver = self._drive()

    def _drive(self) -> LocalDriver:
        return LocalDriver(self._agent.engine, lambda: not self._is_away)

    @property
    def driver(self) -> SnapshotDriver:
        """Of the agent that runs now."""
        return self._driver

    async def start(self) -> None:
        """Begin."""
        await self._agent.engine.start()

    async def stop(self) -> None:
        """End what runs, release everything."""
        await self.end_sessions()
        await self.end_builds()
        await self._agent.stop()

    async def start_build(self) -> Build:
        """See DriverWorld."""
        number = next(self._ids)
        build = Build(f"uid-{number}", f"build-{number}")
        await self._agent.engine.held.hold(
            build.name,
            self._host.image,
            Machine(self._host.memory_mib, 1),
            {POD_UID: build.uid},
        )
        return build

    async def start_session(self, key: str) -> None:
        """See DriverWorld."""
        wish = OwnSession(f"session-{next(self._ids)}", key, _DEADLINE_S)
        await self._agent.engine.sessions.start(wish)

    async def end_sessions(self) -> None:
        """See DriverWorld."""
        sessions = self._agent.engine.sessions
        for session in sessions.list():
            await sessions.end(session.id, EndReason.DELETED)

    async def end_builds(self) -> None:
        """See DriverWorld."""
        await self._agent.engine.held.close()

    async def make_unordered(self, key: str) -> None:
        """See DriverWorld. As `snapctl template create` does."""
        templates = self._agent.engine.templates
        wish = CreateTemplate(name=key, image=self._host.image, memory_mib=self._host.memory_mib)
        templates.begin(wish)

        async def is_built() -> bool:
            return templates.get(key).state is not TemplateState.BUILDING

        await until(is_built)
        templates.require_ready(key)

    async def take_away(self, key: str) -> None:
        """See DriverWorld. As `snapctl template rm` does."""
        await self._agent.engine.templates.remove(key)

    async def restart_agent(self) -> None:
        """See DriverWorld."""
        await self._agent.stop()
        self._agent = _Agent(self._host)
        await self._agent.engine.start()
        self._driver = self._drive()

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """See DriverWorld. No image can be booted, no file be opened."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._is_away = True
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            self._is_away = False

    def held(self) -> Mapping[str, int]:
        """See DriverWorld. From the disk."""
        stored = self._agent.store.list()
        return Counter(one.manifest.name for one in stored)

    def left_over(self) -> list[str]:
        """See DriverWorld."""
        builds = [f"held build {build.id}" for build in self._agent.engine.held.list()]
        machines = (self._host.settings.run_dir / "vms").iterdir()
        return builds + [f"machine {path.name}" for path in machines]


class _Agent:
    """One life of the daemon's engine."""

    def __init__(self, host: Host) -> None:
        settings = host.settings
        self.vmm = host.make_vmm()
        self.store = TemplateStore(settings.data_dir, owner="inst", copier=native.copy_memory)
        self.engine = Engine(Outside(settings, self.vmm, self.store, Trace()))

    async def stop(self) -> None:
        await self.engine.stop()
        self.store.close()
        self.vmm.close()


def fake_host(root: Path) -> Host:
    """Its machines are processes of ours with a fake guest."""
    settings = make_settings(root, machines={"memory_mib": 1})
    settings.data_dir.mkdir(mode=0o700)
    image = make_image(root / "image")
    installation = uuid.uuid4().hex
    return Host(settings, str(image), 1, lambda: FakeVmm(installation, settings.run_dir / "vms"))


def real_host(root: Path, image: Image) -> Host:
    """Its machines are real."""
    settings = make_settings(root)
    settings.data_dir.mkdir(mode=0o700)
    sizes = image.manifest.kernel.size_bytes, image.manifest.initrd.size_bytes
    installation = uuid.uuid4().hex
    return Host(
        settings,
        str(image.directory),
        least_memory_mib(*sizes),
        lambda: make_qemu(settings, installation),
    )


@asynccontextmanager
async def qemu_world(host: Host) -> AsyncIterator[QemuWorld]:
    """One that has started; stopped at the end."""
    world = QemuWorld(host)
    try:
        await world.start()
        yield world
    finally:
        await world.stop()
