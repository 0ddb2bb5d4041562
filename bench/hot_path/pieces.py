"""What do single steps of a fork cost that do not wait for anything?

Processor time of this process for each call, the least of a few batches: what every fork pays,
whatever else the machine does. No virtual machine takes part.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

from agentd.engine.journal import Journal
from agentd.engine.journal_records import Role, VmEnding, VmGone, VmIntended, VmRunning
from agentd.engine.usage import available_memory_bytes
from agentd.log import LogTracer
from agentd.log_setup import configure_logging
from agentd.metrics import Metrics
from agentd.vmm.cgroup import CgroupTree
from agentd.warmfork.prepare import encode_prepare, new_identity
from bench.promises import Promise

_CALLS: Final = 300
_BATCHES: Final = 5
_GROUPS: Final = 64  # of machines that live at the same time
_STAGES: Final = {f"{name}_ms": 1.0 for name in ("spawn", "load", "resume", "inject", "total")}


def call_us(call: Callable[[], object]) -> float:
    """Microseconds of processor time for one call."""
    call()
    return min(_batch_us(call) for _ in range(_BATCHES))


def _batch_us(call: Callable[[], object]) -> float:
    begun_ns = time.process_time_ns()
    for _ in range(_CALLS):
        call()
    return (time.process_time_ns() - begun_ns) / _CALLS / 1e3


def measure() -> list[Promise]:
    """Reported only: how dear each of them may be depends on the machine."""
    configure_logging("info", "json", io.StringIO())
    try:
        with tempfile.TemporaryDirectory() as directory:
            journal, _ = Journal.open(Path(directory) / "journal", "boot")
            with closing(journal):
                pieces = _pieces(Path(directory), journal)
                found = {name: call_us(call) for name, call in pieces.items()}
    finally:
        structlog.reset_defaults()
    return [
        Promise(f"one call: {name}", "reported", f"{us:.1f} us", True, {"us": us})
        for name, us in found.items()
    ]


def _pieces(directory: Path, journal: Journal) -> dict[str, Callable[[], object]]:
    log, metrics = LogTracer(), Metrics()
    for number in range(_GROUPS):
        (directory / f"snapstart-bench-vm{number}").mkdir()
    groups = CgroupTree(directory, "bench")
    return {
        "identity, PREPARE": _prepare,
        "admission: memory of the host": available_memory_bytes,
        "journal: a machine's four records": lambda: _write_life(journal),
        "log: a step that is not wanted": lambda: log.step("machine.running", vm="vm-1", pid=1),
        "log: session.ready": lambda: log.step("session.ready", session="vm-1", **_STAGES),
        "metrics: session.ready": lambda: metrics.step("session.ready", start="fork", **_STAGES),
        f"end: is its group gone, of {_GROUPS}": lambda: groups.has("vm1"),
        f"end: all groups, of {_GROUPS}": groups.list_ids,
    }


def _prepare() -> bytes:
    return encode_prepare(new_identity("vm-1", os.urandom, ""), {}, {}, {}, "")


def _write_life(journal: Journal) -> None:
    journal.append(VmIntended("vm-1", Role.SESSION, "/run/snapstart/vms/vm-1"))
    journal.append(VmRunning("vm-1", 1, 2))
    journal.append(VmEnding("vm-1", "deleted"))
    journal.append(VmGone("vm-1"))
