"""What do sessions wait for that are let in while ten times too many are asked for?"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from agentd.cli.demo_starts import start_session
from agentd.errors import ErrorCode, SnapStartError
from bench.demo import TEMPLATE
from bench.node import Node
from bench.suites.series import FAILURES, Series

# More clients than processors bring no more sessions.
KNEE = os.cpu_count() or 1
OVERLOAD = 10
# What a client of the burst does when it is refused: it asks again so much later.
_PAUSE_S = 0.2
# A round of this suite is a second of the burst.
_ROUND_S = 1.0


@dataclass(frozen=True)
class Asked:
    """One request: what it took, how it failed; a refusal is no failure."""

    ms: float
    is_refused: bool = False
    error: str = ""


@pytest.fixture
def narrow(node: Node) -> Iterator[Node]:
    """The node with room for one fork beside those that start."""
    _restart(node, ADMISSION__QUEUED_FORKS="1")
    yield node
    _restart(node)


def _restart(node: Node, **settings: str) -> None:
    """With a fork, so that no other has to load the template."""
    node.stop()
    node.start(**settings)
    start_session(node, TEMPLATE).sandbox.kill()


@pytest.mark.parametrize("load", ["knee", "overload"])
@pytest.mark.budget(quick_s=35, quick=32, full=120)
def test_requests_of_a_burst(series: Series, narrow: Node, machine: str, load: str) -> None:
    """Clients that start a session, run its first code, end it, over and over.

    knee: as many clients as processors, where more bring no more sessions. overload: ten times as
    many; a refused one asks again 0.2 s later. burst.accepted: from the request that was let in to
    the first reply. burst.refused: from the request to its refusal. burst.rate: sessions a second.
    The node's queue holds one request (`admission.queued_forks`): what waits longer is refused.
    """
    count = KNEE if load == "knee" else KNEE * OVERLOAD
    dims = {"load": load, "clients": str(count)}
    asked, took_s = series.once(lambda: run_clients(narrow, count, series.wanted * _ROUND_S))
    for one in asked:
        if one.error:
            series.also_failed("burst.accepted", one.error, machine_kind=machine, **dims)
        else:
            name = "burst.refused" if one.is_refused else "burst.accepted"
            series.also(name, one.ms, machine_kind=machine, cache="warm", **dims)
    let_in = sum(not one.is_refused and not one.error for one in asked)
    series.also("burst.rate", let_in / took_s, unit="1/s", machine_kind=machine, **dims)


def run_clients(node: Node, count: int, for_s: float) -> tuple[list[Asked], float]:
    """What all clients met, and how long it took; what was begun in time is ended."""
    begun_s, is_over = time.monotonic(), threading.Event()
    with ThreadPoolExecutor(count) as pool:
        pending = [pool.submit(_ask_until, node, is_over) for _ in range(count)]
        time.sleep(for_s)
        is_over.set()
        asked = [one for client in pending for one in client.result()]
    return asked, time.monotonic() - begun_s


def _ask_until(node: Node, is_over: threading.Event) -> list[Asked]:
    asked: list[Asked] = []
    while not is_over.is_set():
        asked.append(_ask(node))
        if asked[-1].is_refused:
            is_over.wait(_PAUSE_S)
    return asked


def _ask(node: Node) -> Asked:
    begin = time.perf_counter()
    try:
        start = start_session(node, TEMPLATE)
    except SnapStartError as exc:
        ms = (time.perf_counter() - begin) * 1e3
        if exc.code is ErrorCode.NODE_FULL:
            return Asked(ms, is_refused=True)
        return Asked(ms, error=str(exc))
    except FAILURES as exc:
        return Asked(0.0, error=str(exc))
    start.sandbox.kill()
    return Asked(start.sample.ms)
