"""How much processor time does agentd take for a fork?"""

from __future__ import annotations

import pytest

from agentd.client import Sandbox
from bench.demo import TEMPLATE
from bench.hot_path.processor import processor_ns
from bench.node import Node
from bench.suites.series import Series


class ProcessorClock:
    """A timer for pytest-benchmark: the processor time of a process, in seconds."""

    pid = 0  # our own

    def __call__(self) -> float:
        """User and system time of all its threads."""
        return processor_ns(self.pid) / 1e9


AGENTD = ProcessorClock()


@pytest.mark.budget(quick_s=12, quick=25, full=200)
@pytest.mark.benchmark(timer=AGENTD)
def test_start_and_end_of_a_fork(series: Series, node: Node, machine: str) -> None:
    """agentd.cpu: of the daemon, not of the machine, from the request for a session to its end."""
    AGENTD.pid = node.pid
    node.create(TEMPLATE).kill()  # reads the template into memory
    series.describe("agentd.cpu", machine=machine, cache="warm")

    def live() -> Sandbox:
        sandbox = node.create(TEMPLATE)
        sandbox.kill()
        return sandbox

    series.rounds(live, after=Sandbox.close)
