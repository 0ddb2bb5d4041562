"""Act out the scenarios of one node: a real agentd, real machines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import psutil

from agentd.client.calls import health
from agentd.errors import SnapStartError
from agentd.image import Image
from agentd.units import MIB
from agentd.vmm.qemu_argv import MARKER_PREFIX
from agentd.wire import api
from bench.cluster.leaks import processes_of
from bench.demo import IMAGES, MEMORY_MIB
from bench.node import Node
from bench.validate import node_faults
from bench.validate.evidence import Record, Start
from bench.validate.low_water import LowWater
from bench.validate.node_sessions import (
    end_sessions,
    run,
    run_jobs,
    started,
    take,
    together,
)
from bench.validate.plan_node import BAD_NAME, CHANGED, CUT, RUNTIME
from bench.validate.run import leaving_nothing
from bench.validate.sizes import Sizes
from tests.integration.node.survey import installation_of, settle

LARGE, SMALL = "python", "small"
SMALL_MIB = 320
FAN_OUT_S = 600.0
CLOSED_S = ENDED_S = 10.0
SETTINGS = {"MACHINES__MEMORY_MIB": str(MEMORY_MIB), "DEADLINES__FORK_S": "120"}
# What a guest keeps for itself of its memory, at most.
_KERNEL_SHARE = 0.3


@dataclass(frozen=True)
class NodeStage:
    """A node with two templates that are ready."""

    node: Node
    sizes: Sizes

    def perform(self, name: str, record: Record) -> None:
        """Act one scenario out. Raises: what its acts raise."""
        self._mend()
        ACTS[name](self, record)

    def _mend(self) -> None:
        """What a scenario that broke off left undone."""
        try:
            self.node.send(health())
        except SnapStartError:
            self.node.kill()
            self.node.start()
        end_sessions(self.node)

    def machines_left(self) -> int:
        """Machines that belong to no session, once every session has ended."""
        end_sessions(self.node)
        return len(settle(self.node).processes)


@contextmanager
def open_node(image: Image, sizes: Sizes, say: Callable[[str], None]) -> Iterator[NodeStage]:
    """The node; of it nothing is left, or that is told."""
    traces: list[str] = []
    with leaving_nothing(lambda: find_left(traces)), Node(IMAGES, **SETTINGS) as node:
        traces += [str(node.root), f"guest={MARKER_PREFIX}/{installation_of(node)}/"]
        for name, memory_mib in ((LARGE, MEMORY_MIB), (SMALL, SMALL_MIB)):
            say(f"template {name}: boot, warm, prove clean, freeze, seal")
            node.build_template(name, str(image.directory), memory_mib=memory_mib)
        yield NodeStage(node, sizes)


def find_left(traces: list[str]) -> list[str]:
    """Processes with one of these in their words, once those that were killed have ended."""
    give_up = time.monotonic() + ENDED_S
    while found := [one for text in traces for one in processes_of(text)]:
        if time.monotonic() > give_up:
            break
        time.sleep(0.1)
    return [f"process {one.pid}" for one in found]


def cold_baseline(stage: NodeStage, record: Record) -> None:
    """Boots one after another."""
    record.note(asked=stage.sizes.cold)
    for _ in range(stage.sizes.cold):
        record.add(take(stage.node, LARGE, "cold", api.SessionMode.COLD))


def restore_hit(stage: NodeStage, record: Record) -> None:
    """Forks one after another."""
    record.note(asked=stage.sizes.forks)
    for _ in range(stage.sizes.forks):
        record.add(take(stage.node, LARGE, "fork"))


def restore_fails(stage: NodeStage, record: Record) -> None:
    """Each way in which a restore can fail on a node, then a mended one."""
    node = stage.node
    record.add(take(node, "no-such-template", BAD_NAME))
    for group, damage in ((CUT, node_faults.cut), (CHANGED, node_faults.flip)):
        with node_faults.damaged(node, SMALL, damage):
            record.add(take(node, SMALL, group))
    with node_faults.failing_monitor(node):
        record.add(take(node, SMALL, RUNTIME))
        record.note(machines_left=stage.machines_left())
    record.add(take(node, SMALL, "mended"))


def fan_out(stage: NodeStage, record: Record) -> None:
    """All at once; none ends before every one of them has answered."""
    count, node = stage.sizes.together, stage.node
    record.note(asked=count)
    everyone = threading.Barrier(count)

    def job() -> Start:
        try:
            with started(node, SMALL, "fork") as (start, _sandbox):
                everyone.wait(timeout=FAN_OUT_S)
                return start
        except BaseException:
            everyone.abort()
            raise

    free_bytes = psutil.virtual_memory().available
    with LowWater() as low:
        starts, wall_ms = together([job] * count)
    record.add(*starts)
    record.note(
        wall_ms=round(wall_ms, 1),
        per_second=round(1e3 * count / wall_ms, 2),
        host_memory_mib=round((free_bytes - low.bytes) / MIB, 1),
        machines_left=stage.machines_left(),
    )


def mixed_templates(stage: NodeStage, record: Record) -> None:
    """Two templates in turns, two of each at once."""
    rounds = stage.sizes.mixed
    record.note(asked_of_each=2 * rounds)
    starts: list[Start] = []
    for _ in range(rounds):
        pairs = [("large", LARGE), ("small", SMALL)] * 2
        jobs = [partial(take, stage.node, template, group) for group, template in pairs]
        found, _ = together(jobs)
        starts += found
        record.add(*found)
    record.note(of_another_template=count_strangers(starts))


def count_strangers(starts: list[Start]) -> int:
    """Sessions whose guest has another memory than that of the template asked for."""
    wanted = {"large": MEMORY_MIB, "small": SMALL_MIB}
    return sum(not fits(one, wanted[one.group]) for one in starts if not one.error)


def fits(start: Start, memory_mib: int) -> bool:
    """The guest has this memory, but for what its kernel keeps."""
    seen_mib = int(start.identity.get("memory_kib", "0")) / 1024
    return (1 - _KERNEL_SHARE) * memory_mib < seen_mib <= memory_mib


def agentic(stage: NodeStage, record: Record) -> None:
    """Episodes, two at a time."""
    node, count = stage.node, stage.sizes.episodes
    take(node, LARGE, "before")  # what the daemon opens once is open
    descriptors = psutil.Process(node.pid).num_fds()
    lock, begun = threading.Lock(), time.perf_counter()
    tally = {"wrong_evaluations": 0, "resets_that_remembered": 0}

    def episode(number: int) -> None:
        found = _episode(node, number)
        with lock:
            record.add(*found.starts)
            tally["wrong_evaluations"] += found.is_wrong
            tally["resets_that_remembered"] += found.has_remembered

    run_jobs([partial(episode, number) for number in range(count)], workers=2)
    seconds = time.perf_counter() - begun
    record.note(episodes=count, episodes_per_minute=round(60 * count / seconds, 1), **tally)
    record.note(machines_left=stage.machines_left())
    record.note(descriptors_grown=count_more(node.pid, descriptors))


def count_more(pid: int, before: int) -> int:
    """Descriptors beyond those of before, once connections that are closing have closed."""
    give_up = time.monotonic() + CLOSED_S
    while (now := psutil.Process(pid).num_fds()) > before and time.monotonic() < give_up:
        time.sleep(0.1)
    return max(0, now - before)


@dataclass(frozen=True)
class _Episode:
    starts: list[Start]
    is_wrong: bool
    has_remembered: bool


STEPS = 3


def _episode(node: Node, number: int) -> _Episode:
    """Launch, step, reset by another fork, step once, evaluate."""
    starts, kept, state, remembered = [], "", "", ""
    with started(node, LARGE, "launch") as (start, first):
        starts.append(start)
        if first is not None and not start.error:
            run(first, f"total = {number}")
            for step in range(STEPS):
                run(first, f"total += {step}; open('/workspace/total', 'w').write(str(total))")
            kept = run(first, "print(open('/workspace/total').read())")
    with started(node, LARGE, "reset") as (start, second):
        starts.append(start)
        if second is not None and not start.error:
            look = "import os; print('total' in globals(), os.listdir('/workspace'))"
            remembered = run(second, look)
            state = run(second, f"total = {number} * 2; print(total)")
    is_wrong = (kept, state) != (str(number + sum(range(STEPS))), str(number * 2))
    return _Episode(starts, is_wrong, has_remembered=remembered != "False []")


ACTS: Mapping[str, Callable[[NodeStage, Record], None]] = {
    "cold baseline": cold_baseline,
    "restore hit": restore_hit,
    "restore fails": restore_fails,
    "N-way fan-out": fan_out,
    "mixed templates": mixed_templates,
    "agentic RL": agentic,
}
