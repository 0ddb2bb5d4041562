"""A page server that may die, with stand-in machines on images of theirs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentd.wire.pager import Listen, Serving
from tests.torture.keeper import Keeper
from tests.torture.pager import PagerFiles, PagerHost
from tests.torture.programs import Programs
from tests.torture.standin import MachineOrder, StandIn

PAGE = 4096
PAGES = 1024
REGIONS = f"{600 * PAGE},{424 * PAGE}"
DIGEST = "5a" * 32
PATIENCE_S = 30.0


@dataclass
class Service:
    """What one test has."""

    programs: Programs
    files: PagerFiles
    host: PagerHost
    _machines: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    def image(self, name: str = "image", *, pages: int = PAGES) -> Path:
        """Made when it is named first."""
        path = self.files.work_dir / name
        if not path.exists():
            command = [str(self.programs.image), "--seed", "9", "--pages", str(pages)]
            subprocess.run([*command, "--zero-share", "0.3", str(path)], check=True)
        return path

    async def machine(
        self, vm: str, protocol: str = "firecracker", *options: str, image: Path | None = None,
        regions: str = REGIONS,
    ) -> StandIn:  # fmt: skip
        """One that has handed its memory over; ended with the service."""
        machine = await self.expected(vm, protocol, *options, image=image, regions=regions)
        assert (await machine.say("connect")).ok
        return machine

    async def expected(
        self, vm: str, protocol: str, *options: str, image: Path | None = None,
        regions: str = REGIONS,
    ) -> StandIn:  # fmt: skip
        """One that is about to connect; ended with the service."""
        image = image or self.image()
        socket = self.files.work_dir / f"{vm}.sock"
        is_memfd = protocol == "memfd"
        await self.host.client.listen(
            Listen(
                vm=vm, socket=str(socket), protocol="memfd" if is_memfd else "firecracker",
                image="" if is_memfd else str(image), digest=DIGEST,
            )
        )  # fmt: skip
        order = MachineOrder(socket, protocol, image, regions, 3, options)
        machine = await self._machines.enter_async_context(
            await StandIn.start(
                self.programs.machine, order, log_file=self.files.work_dir / "machines.log"
            )
        )
        assert (await machine.say("map")).ok
        return machine

    async def served(self, vm: str) -> Serving:
        return await self.host.client.wait(vm, deadline_s=PATIENCE_S)

    async def begin(self, kill: str = "") -> None:
        """Start a page server. kill: where it kills itself; then it may be dead already."""
        self.host.start(kill)
        await self.host.ready()

    async def end(self, number: signal.Signals) -> int:
        """Returns: its status."""
        self.host.signal(number)
        assert await self.host.ended(within_s=PATIENCE_S)
        return await self.host.bury()

    async def died(self) -> None:
        """Wait until it has killed itself."""
        assert await self.host.ended(within_s=PATIENCE_S), "it did not come to this step"
        assert await self.host.bury() == -signal.SIGKILL

    async def reasons(self) -> dict[str, str]:
        """Of the machines that were stopped, why."""
        return {one.vm: one.reason for one in (await self.host.client.stats()).stopped}

    async def close(self) -> None:
        await self._machines.aclose()
        await self.host.close()


@asynccontextmanager
async def service_of(
    programs: Programs, work_dir: Path, *, has_keeper: bool, command: str = "serve"
) -> AsyncIterator[Service]:
    """The test begins page servers, and ends them. command: serve, or supervise."""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="snap-pager-") as journal_dir,
        contextlib.ExitStack() as closing,
    ):
        keeper = Keeper(work_dir / "notify") if has_keeper else None
        if keeper is not None:
            closing.callback(keeper.close)
        files = PagerFiles(work_dir, Path(journal_dir))
        service = Service(programs, files, PagerHost(programs, files, keeper, command=command))
        try:
            yield service
        finally:
            await service.close()
