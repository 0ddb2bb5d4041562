"""How much longer does a fan-out take through agentd than by the bare recipe?"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

from agentd.cli.demo_starts import start_together
from bench.bare_fork import NUMPY_REQUEST, BareTemplate, Machine
from bench.demo import TEMPLATE
from bench.node import Node
from bench.paired import paired_ratio
from bench.promises import Promise

LIMIT = 1.15


def through_agentd(node: Node, count: int) -> float:
    """From the first request to the last session's first answer, milliseconds."""
    starts, wall_ms = start_together(node, TEMPLATE, count)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda start: start.sandbox.kill(), starts))
    return wall_ms


def bare(template: BareTemplate, count: int, workers: int) -> float:
    """The same without agentd: as many at a time as there are workers, all live to the end."""
    machines: list[Machine] = []

    def fork(_: int) -> None:
        machines.append(template.fork(NUMPY_REQUEST)[0])

    begin = time.perf_counter()
    try:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fork, range(count)))
        return (time.perf_counter() - begin) * 1e3
    finally:
        for machine in machines:
            machine.kill()


def measure(node: Node, template: BareTemplate, count: int, rounds: int) -> Promise:
    """In turn, each first in every other round; the floor starts one per processor at a time."""
    workers = os.cpu_count() or 1
    ours: list[float] = []
    floor: list[float] = []
    for number in range(rounds):
        for is_ours in (True, False) if number % 2 else (False, True):
            if is_ours:
                ours.append(through_agentd(node, count))
            else:
                floor.append(bare(template, count, workers))
    ratio = paired_ratio(ours, floor)
    measured = f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), {ratio.pairs} rounds"
    samples = {"agentd_ms": ours, "bare_ms": floor, "count": count, "workers": workers}
    limit = f"<= {LIMIT:g}"
    return Promise(f"{count} forks / bare", limit, measured, ratio.median <= LIMIT, samples)
