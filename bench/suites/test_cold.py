"""How much longer than a fork does a cold start take?"""

from __future__ import annotations

import pytest

from agentd.cli.demo_starts import start_session
from agentd.wire import api
from bench.bare_fork import NUMPY_REQUEST, TRIVIAL_REQUEST
from bench.demo import TEMPLATE
from bench.node import Node
from bench.suites.series import Series

REQUESTS = {"numpy": NUMPY_REQUEST, "trivial": TRIVIAL_REQUEST}


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.budget(quick_s=25, quick=5, full=30)
def test_a_cold_start(series: Series, node: Node, machine: str, request_name: str) -> None:
    """From the request for a session without a template's memory to its first code's reply.

    The guest's kernel and file system are in the page cache. A session of another image would also
    wait for the disk.
    """
    code, mode = REQUESTS[request_name], api.SessionMode.COLD
    series.describe("cold", machine=machine, cache="warm", request=request_name)
    series.rounds(
        lambda: start_session(node, TEMPLATE, mode=mode, code=code),
        after=lambda start: start.sandbox.kill(),
    )


@pytest.mark.budget(quick_s=12, quick=15, full=100)
def test_a_fork_for_the_trivial_request(series: Series, node: Node, machine: str) -> None:
    """As `fork`, but the first code is one addition."""
    series.describe("fork", machine=machine, cache="warm", request="trivial")
    series.rounds(
        lambda: start_session(node, TEMPLATE, code=TRIVIAL_REQUEST),
        after=lambda start: start.sandbox.kill(),
    )
