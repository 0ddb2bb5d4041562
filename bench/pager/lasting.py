"""Measure what a page server costs by being there, what its death costs its machines."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.pager.prepare import Setting
from bench.pager.service import Service
from bench.pager.stand import Stand, Way, start_together

IDLE_MACHINES: Final = 256
_IDLE_S: Final = 5.0
_SETTLE_S: Final = 1.0
_CHURN_S: Final = 1.0
_CHURN_PAGES: Final = 16_384
_KILL_AFTER_S: Final = 0.3


@dataclass(frozen=True)
class Restart:
    """A machine that faulted all the while. killed_ns: 0 if nobody was killed."""

    killed_ns: int
    begun_ns: int
    ended_ns: int
    longest_ns: int
    longest_at_ns: int
    touches: int
    passes: int
    wrong: int

    @property
    def is_meant(self) -> bool:
        """Whether the kill was while the machine ran, and it went on afterwards."""
        return self.begun_ns < self.killed_ns < self.ended_ns


def measure_restart(stand: Stand, setting: Setting, *, is_killed: bool) -> Restart:
    """Have a machine fault all the time; kill the page server in the middle of it."""
    way = Way("restart", "uffd", setting.dense, "ours")
    with stand.machine(way, setting.empty) as machine:
        start_together([machine.vm])
        machine.vm.write(f"churn {_CHURN_S} {_CHURN_PAGES}")
        time.sleep(_KILL_AFTER_S)
        killed_ns = stand.service.kill() if is_killed else 0
        return Restart(killed_ns=killed_ns, **machine.vm.read())


@dataclass(frozen=True)
class Idle:
    """What machines that do nothing cost: the page server and its supervisor together."""

    machines: int
    before_bytes: int
    after_bytes: int
    watched_s: float
    cpu_ns: int

    @property
    def bytes_per_machine(self) -> float:
        """Memory of the page server that came with the machines."""
        return (self.after_bytes - self.before_bytes) / self.machines

    @property
    def cpu_share(self) -> float:
        """Of one processor."""
        return self.cpu_ns / 1e9 / self.watched_s


def measure_idle(stand: Stand, setting: Setting, machines: int) -> Idle:
    """Register machines, wait, look."""
    allow_files()
    way = Way("idle", "uffd", setting.dense, "ours")
    pids = _pids(stand.service)
    before = sum(memory_bytes(pid) for pid in pids)
    with ExitStack() as stack:
        for _ in range(machines):
            machine = stack.enter_context(stand.machine(way, setting.empty))
            start_together([machine.vm])
        time.sleep(_SETTLE_S)
        after = sum(memory_bytes(pid) for pid in pids)
        begun_s, begun_ns = time.monotonic(), cpu_ns(pids)
        time.sleep(_IDLE_S)
        used_ns = cpu_ns(pids) - begun_ns
        return Idle(machines, before, after, time.monotonic() - begun_s, used_ns)


def allow_files() -> None:
    """Two pipes for each machine are more than a login's limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _pids(service: Service) -> list[int]:
    return [service.supervisor_pid, int(service.hello()["pid"])]


def memory_bytes(pid: int) -> int:
    """What a process alone has in memory: anonymous, on tmpfs, page tables. Not files it maps."""
    rollup = _fields(Path(f"/proc/{pid}/smaps_rollup"))
    status = _fields(Path(f"/proc/{pid}/status"))
    return 1024 * (rollup["Pss_Anon"] + rollup["Pss_Shmem"] + status["VmPTE"])


def _fields(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0])
    return found


def cpu_ns(pids: Sequence[int]) -> int:
    """What the threads of processes have run."""
    tasks: list[Any] = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
