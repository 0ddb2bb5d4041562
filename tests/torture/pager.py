"""Run the page server again and again."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.pager.client import PagerClient

from .keeper import Keeper, spawn
from .programs import Programs

START_S: Final = 30.0
HAND_OVER_S: Final = 60
# Of a journal: magic, version, whether it is live.
_HEAD: Final = struct.Struct("=8sII")


@dataclass(frozen=True)
class PagerFiles:
    """Where a page server has its files. journal_dir: on tmpfs."""

    work_dir: Path
    journal_dir: Path

    @property
    def control(self) -> Path:
        return self.work_dir / "control"

    @property
    def kuasar_socket(self) -> Path:
        return self.work_dir / "kuasar.sock"

    @property
    def kuasar_dir(self) -> Path:
        return self.work_dir / "kuasar"

    @property
    def log(self) -> Path:
        return self.work_dir / "pager.log"

    @property
    def deaths(self) -> Path:
        """Each line a step at which the page server killed itself."""
        return self.work_dir / "deaths"


class PagerHost:
    """Starts page servers, one after the other, and waits for their ends.

    keeper: keeps descriptors for them; None: the monitors alone do. plant: a mistake to build in.
    command: serve, or supervise. incarnation: how many there were. program: of the next one.
    """

    def __init__(
        self,
        programs: Programs,
        files: PagerFiles,
        keeper: Keeper | None,
        *,
        plant: str = "",
        command: str = "serve",
    ) -> None:
        self.files = files
        self.keeper = keeper
        self.client = PagerClient(files.control)
        self.incarnation = 0
        self.pid = 0
        self._plant = plant
        self._command = command
        self.program = programs.pager
        self._ended: asyncio.Future[int] | None = None
        self._journalled: set[str] = set()

    def was_journalled(self, vm: str) -> bool:
        """Whether a page server died that had written down that it serves this machine."""
        return vm in self._journalled

    def start(self, kill: str = "") -> None:
        """kill: STEP:N, where it is to kill itself."""
        assert self._ended is None, "one page server at a time"
        self.files.kuasar_dir.mkdir(exist_ok=True)
        argv, environment = self._argv(), self._environment(kill)
        if self.keeper is not None:
            self.pid = self.keeper.spawn(argv, environment, self.files.log)
        else:
            self.pid = spawn(argv, environment, [], self.files.log)
        self.incarnation += 1
        self._ended = _end_of(self.pid)

    async def ready(self) -> None:
        """Wait until it serves; returns also when it has died meanwhile."""
        assert self._ended is not None
        if self.keeper is None:
            await self.client.hello(deadline_s=START_S)
            return
        ready = asyncio.ensure_future(self.keeper.is_ready.wait())
        await asyncio.wait((ready, self._ended), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()

    async def ended(self, *, within_s: float) -> bool:
        """Returns: whether it ended by then."""
        assert self._ended is not None
        await asyncio.wait((self._ended,), timeout=within_s)
        return self._ended.done()

    @property
    def is_running(self) -> bool:
        return self._ended is not None and not self._ended.done()

    def signal(self, number: signal.Signals) -> None:
        """Harmless once it has ended: it is a zombie until `bury`."""
        if self.is_running:
            os.kill(self.pid, number)

    async def bury(self) -> int:
        """Wait for its end. Returns: its status, negative for a signal."""
        assert self._ended is not None
        status = os.waitstatus_to_exitcode(await self._ended)
        self._ended = None
        self.pid = 0
        if self.keeper is not None:
            self.keeper.hear()
        self._journalled |= _list_journalled(self.files.journal_dir)
        return status

    async def close(self) -> None:
        """End what runs. Idempotent."""
        if self._ended is not None:
            self.signal(signal.SIGKILL)
            await self.bury()

    def _argv(self) -> list[str]:
        files = self.files
        return [
            str(self.program), self._command, "--control", str(files.control),
            "--journal", str(files.journal_dir), "--hand-over-s", str(HAND_OVER_S),
            "--kuasar-socket", str(files.kuasar_socket), "--kuasar-dir", str(files.kuasar_dir),
        ]  # fmt: skip

    def _environment(self, kill: str) -> dict[str, str]:
        told = {"SNAP_PAGER_PLANT": self._plant, "SNAP_PAGER_KILL": kill}
        marked = {"SNAP_TORTURE": str(self.files.work_dir)}
        return {
            **os.environ,
            **marked,
            **{name: value for name, value in told.items() if value},
            "SNAP_PAGER_KILL_REPORT": str(self.files.deaths),
        }


def _list_journalled(journal_dir: Path) -> set[str]:
    """The machines whose files are complete (native/pager/journal.h has the head)."""
    found = set()
    for path in journal_dir.glob("*.vm"):
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
        if len(head) == _HEAD.size and _HEAD.unpack(head)[2]:
            found.add(path.stem)
    return found


def _end_of(pid: int) -> asyncio.Future[int]:
    """A future of the wait status; the process is reaped then."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    pidfd = os.pidfd_open(pid)

    def reap() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        ended.set_result(os.waitpid(pid, 0)[1])

    loop.add_reader(pidfd, reap)
    return ended
