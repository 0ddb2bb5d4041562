"""A node of Kuasar's: a page server at its one socket, templates, sandboxes that link to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentd.errors import SnapStartError
from agentd.wire.pager import Serving
from tests.torture.keeper import Keeper
from tests.torture.pager import PagerFiles, PagerHost
from tests.torture.programs import Programs
from tests.torture.standin import MachineOrder, StandIn

PAGE: Final = 4096
PAGES: Final = 512
REGIONS: Final = f"{300 * PAGE},{212 * PAGE}"
MOMENT_S: Final = 30.0
LONG_S: Final = 3600.0
_AGAIN_S: Final = 0.01


@dataclass(frozen=True)
class Sanitized(Programs):
    """The programs of the torture run, but for the page server: the one that is shipped, compiled
    under the sanitizers.
    """

    checked: Path

    @property
    def pager(self) -> Path:
        return self.checked


class SetsHost(PagerHost):
    """Page servers that make working sets. records, record_s: as on the command line. slow_s: how
    long each of its processes takes to begin.
    """

    records: int = 3
    record_s: float = LONG_S
    sets_dir: Path | None = None
    slow_s: int = 0

    def _argv(self) -> list[str]:
        sets_dir = self.sets_dir or self.files.work_dir / "sets"
        return [
            *super()._argv(), "--kuasar-sets", str(sets_dir), "--kuasar-set-mib", "1",
            "--kuasar-records", str(self.records), "--kuasar-record-s", str(self.record_s),
        ]  # fmt: skip

    def _environment(self, kill: str) -> dict[str, str]:
        slow = {"ASAN_OPTIONS": f"sleep_after_init={self.slow_s}"} if self.slow_s else {}
        return {**super()._environment(kill), **slow}


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until it holds. Raises: AssertionError after a while."""
    give_up_s = time.monotonic() + MOMENT_S
    while not condition():
        assert time.monotonic() < give_up_s, what
        await asyncio.sleep(_AGAIN_S)


@dataclass
class KuasarNode:
    """What one test has."""

    programs: Programs
    host: SetsHost
    _machines: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _templates: int = 0

    @property
    def files(self) -> PagerFiles:
        return self.host.files

    @property
    def sets_dir(self) -> Path:
        return self.files.work_dir / "sets"

    # -- the page server ----------------------------------------------------------------------

    async def begin(self) -> None:
        """Start a page server; it records, or has said that it cannot."""
        before = len(self.told("working_set.ready", "working_set.failed"))
        self.host.start()
        await self.host.ready()
        await until(
            lambda: len(self.told("working_set.ready", "working_set.failed")) > before,
            "it says nothing about its directory",
        )

    async def end(self, number: signal.Signals) -> int:
        """Returns: its status."""
        self.host.signal(number)
        assert await self.host.ended(within_s=MOMENT_S)
        return await self.host.bury()

    def mergers(self) -> list[int]:
        """Processes that merge records."""
        tasks = Path(f"/proc/{self.host.pid}/task").iterdir()
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]

    def told(self, *events: str) -> list[dict[str, Any]]:
        """Lines of its log."""
        text = self.files.log.read_text() if self.files.log.exists() else ""
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] in events]

    # -- templates and sandboxes --------------------------------------------------------------

    def template(self, *, seed: int = 9, place: str = "") -> Path:
        """A new one. Returns: its memory image. place: its directory; a former one is replaced."""
        self._templates += 1
        place = place or f"template-{self._templates}"
        path = self.files.work_dir / "pool" / place / "snapshot" / "memory.img"
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name("new")
        command = [str(self.programs.image), "--seed", str(seed), "--pages", str(PAGES)]
        subprocess.run([*command, "--zero-share", "0.3", str(new)], check=True)
        new.rename(path)
        return path

    def sandbox(self, vm: str, image: Path) -> Path:
        """Returns: the link through which its monitor names its image."""
        path = self.files.kuasar_dir / vm / "restore" / "memory.img"
        path.parent.mkdir(parents=True)
        path.symlink_to(image)
        return path

    def trace(self, name: str, pages: Iterable[int]) -> Path:
        """Touches in this order, every third one a write."""
        path = self.files.work_dir / name
        path.write_text("".join(f"{page} {'rrw'[index % 3]}\n" for index, page in enumerate(pages)))
        return path

    # -- machines -----------------------------------------------------------------------------

    async def monitor(self, path: Path, *options: str, regions: str = REGIONS) -> StandIn:
        """One that has mapped its memory; ended with the node. path: as it names its image."""
        order = MachineOrder(self.files.kuasar_socket, "kuasar", path, regions, 3, options)
        log_file = self.files.work_dir / "machines.log"
        machine = await self._machines.enter_async_context(
            await StandIn.start(self.programs.machine, order, log_file=log_file)
        )
        assert (await machine.say("map")).ok
        return machine

    async def machine(self, vm: str, image: Path, *options: str) -> StandIn:
        """A sandbox whose monitor has handed its memory over. image: of the template."""
        machine = await self.monitor(self.sandbox(vm, image), *options)
        assert (await machine.say("connect")).ok
        return machine

    async def served(self, vm: str) -> Serving:
        """Nobody announced it: it is not known before its message was read."""
        give_up_s = time.monotonic() + MOMENT_S
        while True:
            try:
                return await self.host.client.wait(vm, deadline_s=MOMENT_S)
            except SnapStartError:
                if time.monotonic() > give_up_s:
                    raise
            await asyncio.sleep(_AGAIN_S)

    async def is_recorded(self, vm: str) -> bool:
        return "is recorded" in (await self.served(vm)).why

    async def live(self, vm: str, image: Path, trace: Path) -> Serving:
        """A whole life: it touches what is in the trace, and ends."""
        machine = await self.machine(vm, image, "--trace", str(trace))
        serving = await self.served(vm)
        said = await machine.say("run")
        assert said.wrong == 0
        assert await machine.quit() == 0
        return serving

    async def assert_whole(self, machine: StandIn) -> None:
        """Every byte of every page is right."""
        said = await machine.say("verify")
        assert (said.pages, said.wrong) == (PAGES, 0)

    # -- working sets -------------------------------------------------------------------------

    def kept(self, suffix: str) -> list[str]:
        """Files in its directory whose names end so."""
        if not self.sets_dir.is_dir():
            return []
        return sorted(path.name for path in self.sets_dir.iterdir() if path.name.endswith(suffix))

    async def set_made(self, image: Path, trace: Path) -> str:
        """Have a template's machines recorded. Returns: the name of its working set."""
        before = set(self.kept(".set"))
        for number in range(1, self.host.records + 1):
            vm = f"{image.parent.parent.name}-{number}-{random.randrange(1 << 30)}"
            assert "is recorded" in (await self.live(vm, image, trace)).why
            await self._record_written(number, before)
        await until(lambda: set(self.kept(".set")) - before, "no working set was made")
        await until(lambda: not self.kept(".record"), "the records stayed")
        return (set(self.kept(".set")) - before).pop()

    async def _record_written(self, number: int, before: set[str]) -> None:
        """A machine's record is written after its end; after the last one they are merged."""

        def is_written() -> bool:
            return len(self.kept(".record")) == number or bool(set(self.kept(".set")) - before)

        await until(is_written, "no record was written")

    async def close(self) -> None:
        await self._machines.aclose()
        await self.host.close()


@asynccontextmanager
async def node_of(
    programs: Programs, *, has_keeper: bool = False, command: str = "serve"
) -> AsyncIterator[KuasarNode]:
    """The test begins page servers, and ends them. command: serve, or supervise."""
    with (
        tempfile.TemporaryDirectory(prefix="pager-") as work_dir,
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="snap-pager-") as journal_dir,
        contextlib.ExitStack() as closing,
    ):
        keeper = Keeper(Path(work_dir) / "notify") if has_keeper else None
        if keeper is not None:
            closing.callback(keeper.close)
        files = PagerFiles(Path(work_dir), Path(journal_dir))
        node = KuasarNode(programs, SetsHost(programs, files, keeper, command=command))
        try:
            yield node
        finally:
            await node.close()
