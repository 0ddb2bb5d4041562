"""What memory is a fork's own?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentd.cli.demo_starts import start_session
from agentd.client import Sandbox
from agentd.engine.usage import read_private_bytes
from agentd.units import MIB
from bench.bare_fork import NUMPY_REQUEST, BareTemplate, Machine
from bench.demo import TEMPLATE
from bench.node import Node
from bench.suites.series import Series

TOGETHER = 8


@pytest.fixture
def sandboxes(node: Node) -> Iterator[list[Sandbox]]:
    """Sessions that have answered one request each."""
    started: list[Sandbox] = []
    try:
        for _ in range(TOGETHER):
            started.append(start_session(node, TEMPLATE).sandbox)
        yield started
    finally:
        for one in started:
            one.kill()


@pytest.mark.budget(quick_s=20, quick=30, full=200)
def test_memory_of_eight_live_forks(
    series: Series, node: Node, sandboxes: list[Sandbox], bare: BareTemplate, machine: str
) -> None:
    """usage: from the request for what all sessions use to its answer, 8 of them alive.

    memory.private: pages that are a machine's alone after one numpy request; memory.private.bare:
    of the bare recipe's. memory.agentd: the daemon's resident memory at that time.
    """
    series.describe("usage", machine=machine, sessions=str(TOGETHER))
    usages = node.usages()
    for one in sandboxes:
        private_mib = usages[one.sandbox_id].private_bytes / MIB
        series.also("memory.private", private_mib, unit="MiB", sessions=TOGETHER)
    series.also("memory.agentd", node.rss_bytes() / MIB, unit="MiB", sessions=TOGETHER)
    for value in bare_private_mib(bare):
        series.also("memory.private.bare", value, unit="MiB", sessions=TOGETHER)
    series.rounds(node.usages)


def bare_private_mib(bare: BareTemplate) -> list[float]:
    """The same of the bare recipe's machines."""
    machines: list[Machine] = []
    try:
        for _ in range(TOGETHER):
            machines.append(bare.fork(NUMPY_REQUEST)[0])
        return [read_private_bytes(one.process.pid) / MIB for one in machines]
    finally:
        for one in machines:
            one.kill()
