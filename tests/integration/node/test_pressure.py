"""A real node under a burst of requests, and under a wall clock that is set, recovers by itself."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentd.client import Sandbox
from agentd.errors import SnapStartError
from bench.node import Node
from tests.adapters.pressure.clock import HOUR_S, WallClock

from .conftest import TEMPLATE
from .survey import settle

pytestmark = [pytest.mark.vm, pytest.mark.restarts, pytest.mark.timeout(240)]
_BURST = 40
_ROOM = 3


def ask(node: Node) -> Sandbox | str:
    """One client's request: a session, or the code of the error."""
    try:
        return node.create(TEMPLATE)
    except SnapStartError as exc:
        return exc.code.value


@pytest.fixture
def small_node(node: Node) -> Iterator[Node]:
    """The node while it has room for a few sessions."""
    node.stop()
    node.start(ADMISSION__MAX_SESSIONS=str(_ROOM), DEADLINES__FORK_S="120")
    yield node
    node.stop()
    node.start()


def test_a_burst_of_requests_gets_sessions_or_reasons(small_node: Node) -> None:
    with ThreadPoolExecutor(_BURST) as clients:
        answers = list(clients.map(lambda _: ask(small_node), range(_BURST)))
    opened = [one for one in answers if isinstance(one, Sandbox)]
    refused = Counter(one for one in answers if isinstance(one, str))
    assert len(opened) == _ROOM
    assert refused == {"node_full": _BURST - _ROOM}
    for one in opened:
        assert one.run_code("6 * 7").text == "42"
        one.kill()
    with small_node.create(TEMPLATE) as sandbox:
        assert sandbox.run_code("6 * 7").text == "42"
    assert settle(small_node).is_settled


def off_s(sandbox: Sandbox) -> float:
    """A guest's clock against ours."""
    said = sandbox.run_code("import time\ntime.time()", timeout=120).text
    assert said is not None
    return float(said) - datetime.datetime.now(datetime.UTC).timestamp()


@pytest.fixture
def clock(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WallClock]:
    """The node's, for as long as the test runs."""
    made = WallClock(tmp_path)
    node.stop()
    with monkeypatch.context() as changed:
        for name, value in made.environ.items():
            changed.setenv(name, value)
        node.start()
    yield made
    node.stop()
    node.start()


def test_new_guests_follow_a_clock_that_is_set_and_running_ones_go_on(
    node: Node, clock: WallClock
) -> None:
    near_s = HOUR_S / 4
    with node.create(TEMPLATE) as first:
        for jump_s in (HOUR_S, -HOUR_S, 0):
            clock.set_off(jump_s)
            with node.create(TEMPLATE) as fork:
                assert abs(off_s(fork) - jump_s) < near_s
            assert abs(off_s(first)) < near_s
    assert settle(node).is_settled
