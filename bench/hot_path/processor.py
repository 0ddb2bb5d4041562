"""How much processor time does agentd take per fork, and how much while nothing happens?"""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.bundle import nearest_rank
from bench.demo import TEMPLATE
from bench.node import Node
from bench.promises import Promise

FORK_LIMIT_MS = 15.0
IDLE_LIMIT_PERCENT = 0.1
_IDLE_SESSIONS = 8
_SETTLE_S = 5.0  # what a build or a start leaves to be done is not rest
_PROCESS_CLOCK = 2  # CPUCLOCK_SCHED of clock_getcpuclockid(3): all threads, no other process


def processor_ns(pid: int) -> int:
    """Processor time of a process since its start: user and system, its ended threads too."""
    return time.clock_gettime_ns((~pid << 3) | _PROCESS_CLOCK)


@dataclass(frozen=True)
class Cost:
    """Of one fork's life, milliseconds of the daemon's processor time."""

    start_ms: float
    end_ms: float

    @property
    def whole_ms(self) -> float:
        """Start and end."""
        return self.start_ms + self.end_ms


def one_fork(node: Node) -> Cost:
    """Start a session, end it; QEMU's own time is not the daemon's."""
    before = processor_ns(node.pid)
    sandbox = node.create(TEMPLATE)
    started = processor_ns(node.pid)
    sandbox.kill()
    ended = processor_ns(node.pid)
    return Cost((started - before) / 1e6, (ended - started) / 1e6)


def per_fork(node: Node, count: int) -> Promise:
    """The mean of all, so that what happens now and then counts too."""
    one_fork(node)  # reads the template into memory
    costs = [one_fork(node) for _ in range(count)]
    mean_ms = sum(one.whole_ms for one in costs) / count
    start_ms = sum(one.start_ms for one in costs) / count
    worst_ms = nearest_rank(sorted(one.whole_ms for one in costs), 95)
    measured = f"{mean_ms:.2f} ms, {start_ms:.2f} of them to start; p95 {worst_ms:.2f}; {count}"
    samples = {"start_ms": [c.start_ms for c in costs], "end_ms": [c.end_ms for c in costs]}
    limit = f"< {FORK_LIMIT_MS:g} ms"
    return Promise("agentd's CPU per fork", limit, measured, mean_ms < FORK_LIMIT_MS, samples)


def at_rest(node: Node, seconds: float) -> list[Promise]:
    """Without sessions, then with some that nobody uses."""
    time.sleep(_SETTLE_S)
    promises = [_idle(node, seconds, 0)]
    sandboxes = [node.create(TEMPLATE) for _ in range(_IDLE_SESSIONS)]
    try:
        time.sleep(_SETTLE_S)
        promises.append(_idle(node, seconds, _IDLE_SESSIONS))
    finally:
        for sandbox in sandboxes:
            sandbox.kill()
    return promises


def _idle(node: Node, seconds: float, sessions: int) -> Promise:
    begun, before = time.monotonic_ns(), processor_ns(node.pid)
    time.sleep(seconds)
    percent = 100 * (processor_ns(node.pid) - before) / (time.monotonic_ns() - begun)
    return Promise(
        f"agentd at rest, {sessions} sessions",
        f"< {IDLE_LIMIT_PERCENT:g} %",
        f"{percent:.4f} % of a core over {seconds:g} s",
        percent < IDLE_LIMIT_PERCENT,
        {"percent": percent, "seconds": seconds, "sessions": sessions},
    )
