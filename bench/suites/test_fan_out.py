"""How long do many forks take that are asked for at once?"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentd.cli.demo_starts import Start, start_together
from agentd.client import Sandbox
from agentd.wire import api
from bench.bare_fork import NUMPY_REQUEST, BareTemplate
from bench.demo import TEMPLATE
from bench.node import Node
from bench.suites.series import FAILURES, Series

# How many, then: seconds and rounds of the quick form, rounds of the full one.
SIZES = {
    1: (8, 5, 30),
    2: (6, 4, 30),
    4: (9, 3, 30),
    8: (20, 3, 30),
    32: (55, 3, 10),
    128: (0, 0, 5),
}


@pytest.mark.parametrize(
    "together", [pytest.param(n, marks=pytest.mark.budget(*b)) for n, b in SIZES.items()]
)
def test_forks_at_once(
    series: Series, node: Node, bare: BareTemplate, machine: str, together: int
) -> None:
    """fan_out: from the first request to the last session's first reply.

    fan_out.session: of each session from its own request to its first reply. fan_out.bare: the bare
    recipe as often, in as many threads as the machine has processors, as agentd starts forks; in
    turn with ours, the first one changing from round to round.
    """
    dims = {"together": str(together)}
    series.describe("fan_out", machine=machine, cache="warm", **dims)

    def fan_out_bare() -> None:
        series.also("fan_out.bare", bare_together_ms(bare, together), **dims)

    def before() -> None:
        if series.number % 2:
            fan_out_bare()

    def after(found: tuple[list[Start], float]) -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda start: start.sandbox.kill(), found[0]))
        for start in found[0]:
            series.also("fan_out.session", start.sample.ms, **dims)
        if not series.number % 2:
            fan_out_bare()

    def fan_out() -> tuple[list[Start], float]:
        try:
            return start_together(node, TEMPLATE, together)
        except FAILURES:
            for session in Sandbox.list(socket=node.socket):  # those that did start
                if session.state is not api.SessionState.ENDED:
                    Sandbox.connect(session.id, socket=node.socket).kill()
            raise

    series.rounds(fan_out, before=before, after=after)


def bare_together_ms(bare: BareTemplate, count: int) -> float:
    """Milliseconds from the first fork's begin to the last one's reply; all live until then."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pending = [pool.submit(bare.fork, NUMPY_REQUEST) for _ in range(count)]
    took_ms = (time.perf_counter() - begin) * 1e3
    failures = [one.exception() for one in pending if one.exception() is not None]
    for one in pending:
        if one.exception() is None:
            one.result()[0].kill()
    if failures:
        raise failures[0]  # type: ignore[misc]
    return took_ms
