"""How soon is a listening guest noticed, how long does an injection take? Stand-in guest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from agentd import native

_PREPARE = json.dumps(
    {"type": "PREPARE", "task_id": "1", "context": "{}", "env_overrides": {}}
).encode()


@dataclass(frozen=True)
class Readiness:
    """Microseconds of every round.

    processor_wait_us: how long the waiter and the guest together were ready to run in that round
    while other processes had the processors: the machine's part in a late round.
    """

    noticed_us: list[float]
    inject_us: list[float]
    processor_wait_us: list[float]


def measure_readiness(rounds: int) -> Readiness:
    """Wait for a guest, inject into it; the guest is another process."""
    noticed, injected, waited = [], [], []
    with tempfile.TemporaryDirectory(prefix="ready-") as directory:
        argv = [sys.executable, "-m", "bench.standin_guest", directory, str(rounds)]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as guest:
            assert guest.stdin is not None
            assert guest.stdout is not None
            for number in range(rounds):
                before_ns = _processor_wait_ns(os.getpid(), guest.pid)
                guest.stdin.write("go\n")
                guest.stdin.flush()
                found_ns, inject_ns = _one_round(Path(directory) / f"{number}.sock")
                listening_ns = int(guest.stdout.readline())
                noticed.append((found_ns - listening_ns) / 1e3)
                injected.append(inject_ns / 1e3)
                waited.append((_processor_wait_ns(os.getpid(), guest.pid) - before_ns) / 1e3)
    return Readiness(noticed, injected, waited)


def _processor_wait_ns(*pids: int) -> int:
    """Time spent on run queues by the main threads (Linux sched-stats.rst, /proc/PID/schedstat)."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1]) for pid in pids)


def _one_round(path: Path) -> tuple[int, int]:
    """When the guest was found ready, how many nanoseconds the injection took."""
    fd = native.wait_ready(str(path), deadline_ns=native.deadline_after(10))
    try:
        found_ns = time.monotonic_ns()
        deadline_ns = native.deadline_after(10)
        (result,) = native.inject(
            [native.InjectTarget(fd, _PREPARE)],
            prepare_deadline_ns=deadline_ns,
            commit_deadline_ns=deadline_ns,
        )
        took_ns = time.monotonic_ns() - found_ns
        if result.status is not native.InjectStatus.STARTED:
            raise RuntimeError(f"inject into the stand-in: {result}")
        return found_ns, took_ns
    finally:
        os.close(fd)
