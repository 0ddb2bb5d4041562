"""Look at what a node takes of its host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from agentd.units import MIB
from agentd.vmm.cgroup import CgroupTree
from bench.node import Node


@dataclass(frozen=True)
class Quantity:
    """What is watched. allowed: growth over a life that is none. is_ours: of this node alone; what
    the whole host has is told, and not judged. lives_with: the process that it belongs to.
    """

    name: str
    unit: str
    allowed: float
    lives_with: str = ""
    is_ours: bool = True


QUANTITIES: Final = (
    # 256 ended sessions are remembered, 14 KiB each: 3.5 MiB. Nothing else is kept.
    Quantity("agentd: resident memory", "MiB", 4.0, "agentd"),
    Quantity("agentd: descriptors", "", 1.0, "agentd"),
    Quantity("agentd: threads", "", 1.0, "agentd"),
    Quantity("page server: resident memory", "MiB", 1.0, "pager"),
    Quantity("page server: descriptors", "", 1.0, "pager"),
    Quantity("page server: threads", "", 1.0, "pager"),
    Quantity("data directory", "MiB", 1.0),
    Quantity("history, a row for each session", "KiB", 0.0, is_ours=False),
    Quantity("run directory without its journal", "KiB", 8.0),
    Quantity("journal after a start", "KiB", 4.0),
    Quantity("journal directory of the page server", "KiB", 4.0),
    Quantity("control groups", "", 0.0),
    Quantity("processes of machines", "", 0.0),
    Quantity("kernel memory of the host", "MiB", 0.0, is_ours=False),
)

Sample = Mapping[str, float]


def look(node: Node, pager_pid: int, pager_journal: Path, journal_bytes: int) -> Sample:
    """One sample, of every quantity. journal_bytes: when agentd had just started."""
    data, run = node.root / "data", node.root / "run"
    history = sum(path.stat().st_size for path in data.glob("history.db*"))
    installation = (data / "installation-id").read_text().strip()
    names = [quantity.name for quantity in QUANTITIES]
    journal = (run / "journal").stat().st_size
    values = [
        *_process(node.pid),
        *_process(pager_pid),
        (_tree_bytes(data) - history) / MIB,
        history / 1024,
        (_tree_bytes(run) - journal) / 1024,
        journal_bytes / 1024,
        _tree_bytes(pager_journal) / 1024,
        float(len(CgroupTree.find(installation).list_ids())),
        float(_count_machines(installation)),
        _kernel_mib(),
    ]
    return dict(zip(names, values, strict=True))


def _process(pid: int) -> tuple[float, float, float]:
    process = psutil.Process(pid)
    resident = process.memory_info().rss / MIB
    return resident, float(process.num_fds()), float(process.num_threads())


def _tree_bytes(root: Path) -> int:
    """What the files below take."""
    total = 0
    for place, _, names in os.walk(root):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def _count_machines(installation: str) -> int:
    prefix = f"guest=snapstart/{installation}/"
    found = 0
    for process in psutil.process_iter():
        try:
            found += any(word.startswith(prefix) for word in process.cmdline())
        except psutil.Error:
            continue
    return found


def _kernel_mib() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return sum(kib[name] for name in ("SUnreclaim", "KernelStack", "PageTables")) / 1024
