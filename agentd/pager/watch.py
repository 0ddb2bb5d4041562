"""Look at the page server every few seconds: what it did, whether it is there.

The page server counts for each machine, for as long as the machine lives. Sums that only grow are
made of what came on top since the last look, so what a machine did after the last look at it is
not in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import psutil

from agentd.errors import SnapStartError
from agentd.pager.client import PagerClient
from agentd.pager.process import Step
from agentd.wire.pager import PROCESS_ENDED, MachineStats, Stats, StoppedMachine

EVERY_S: Final = 5.0
_ANSWER_S: Final = 2.0
SERVING: Final = "serving"
STOPPED: Final = "stopped"
COUNTED: Final = ("faults", "prefetched", "copied", "shared", "zeroed", "removed", "stalls")
_LOG_MOST_BYTES: Final = 8 << 20


@dataclass(frozen=True)
class Changes:
    """Between two looks. served: machines not seen before. stopped: by the page server. counted:
    what came on top of each sum.
    """

    served: list[MachineStats]
    stopped: list[StoppedMachine]
    counted: Mapping[str, int]


def compare(before: Stats | None, now: Stats) -> Changes:
    """What is new. before: None counts everything as new but old endings, which were told."""
    known = {one.vm: one for one in _serving(before)}
    ended = {(one.vm, one.reason) for one in _stopped(before or now)}
    serving = _serving(now)
    return Changes(
        [one for one in serving if one.vm not in known],
        [one for one in _stopped(now) if (one.vm, one.reason) not in ended],
        {name: sum(_more(known.get(one.vm), one, name) for one in serving) for name in COUNTED},
    )


def _serving(stats: Stats | None) -> list[MachineStats]:
    return [one for one in stats.machines if one.state == SERVING] if stats else []


def _stopped(stats: Stats) -> list[StoppedMachine]:
    """Those that are over for another reason than that their process ended."""
    over = [StoppedMachine(one.vm, one.reason) for one in stats.machines if one.state == STOPPED]
    return [one for one in (*stats.stopped, *over) if one.reason not in ("", PROCESS_ENDED)]


def _more(before: MachineStats | None, now: MachineStats, name: str) -> int:
    is_same = before is not None and before.pid == now.pid
    value: int = getattr(now, name)
    return max(0, value - getattr(before, name)) if is_same else value


@dataclass(frozen=True)
class Summary:
    """All machines that are served now. covered: NaN before any page was asked for."""

    machines: int
    covered: float
    max_stall_s: float


def summarise(stats: Stats | None) -> Summary:
    """stats: None when no page server answers."""
    serving = _serving(stats)
    asked = sum(_asked(one) for one in serving)
    covered = sum((one.covered or 0.0) * _asked(one) for one in serving)
    longest_us = max((one.max_stall_us for one in serving), default=0)
    return Summary(len(serving), covered / asked if asked else math.nan, longest_us / 1e6)


def _asked(one: MachineStats) -> int:
    """Pages that its guest asked for, about: a few that were brought it may never touch."""
    return one.prefetched + one.faults


class Starter(Protocol):
    """Has a page server that answers; `PagerProcess`."""

    async def ensure(self) -> object:
        """Raises: SnapStartError."""

    def close(self) -> None:
        """Leave it to run on."""


@dataclass
class PagerWatch:
    """Looks at one page server. log_file: of one that we start, which is kept short.

    process: who starts one, if this node's machines need one. latest: None while none answers.
    """

    client: PagerClient
    step: Step
    log_file: Path
    process: Starter | None = None
    latest: Stats | None = field(default=None, init=False)
    _last_known: Stats | None = field(default=None, init=False)
    _is_starting_told: bool = field(default=False, init=False)

    @property
    def is_missed(self) -> bool:
        """Whether none answers while machines live that one served: they wait in their faults."""
        served = _serving(self._last_known) if self.latest is None else []
        return any(psutil.pid_exists(one.pid) for one in served)

    async def run(self) -> None:
        """Look for ever. Cancellation: harmless."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    def close(self) -> None:
        """Leave the page server to run on; after `run` has ended. Idempotent."""
        if self.process is not None:
            self.process.close()

    async def look(self) -> None:
        """Look once, telling what changed; start one that has to be there and is not."""
        trim_log(self.log_file)
        found = await self._ask()
        if found is None and self.process is not None:
            await self._ensure(self.process)
            found = await self._ask()
        self._note(found)

    async def _ask(self) -> Stats | None:
        if not self.client.has_socket():
            return None
        try:
            return await self.client.stats(deadline_s=_ANSWER_S)
        except SnapStartError as exc:
            if self.latest is not None:
                self.step("pager.lost", error=str(exc))
            return None

    async def _ensure(self, process: Starter) -> None:
        try:
            await process.ensure()
            self._is_starting_told = False
        except SnapStartError as exc:
            # Every few seconds the same would drown the log.
            if not self._is_starting_told:
                self.step("pager.start.failed", error=str(exc))
            self._is_starting_told = True

    def _note(self, now: Stats | None) -> None:
        if now is not None:
            if self.latest is None:
                self.step("pager.found", pid=now.pid, machines=len(now.machines))
            self._tell(compare(self._last_known, now))
            self._last_known = now
        self.latest = now

    def _tell(self, changes: Changes) -> None:
        for one in changes.served:
            self.step("pager.served", vm=one.vm, method=one.method, why=one.why)
        for ended in changes.stopped:
            self.step("pager.machine.failed", vm=ended.vm, reason=ended.reason)
        if any(changes.counted.values()):
            self.step("pager.counted", **changes.counted)


def trim_log(path: Path) -> None:
    """Empty a log that has grown long, keeping its content beside it; its writers append."""
    with contextlib.suppress(OSError):
        if path.stat().st_size >= _LOG_MOST_BYTES:
            path.with_name(f"{path.name}.1").write_bytes(path.read_bytes())
            os.truncate(path, 0)


def is_wanted(engine: str, *, serves_kuasar: bool) -> bool:
    """Whether machines of this node need a page server. engine: of the monitor.

    Firecracker knows only files besides. Cloud Hypervisor maps its template's memory; where it
    cannot, it uses a page server that is there, and goes without one.
    """
    return serves_kuasar or engine == "firecracker"
