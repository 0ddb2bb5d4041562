"""agentd may die at any instant: no session is lost, nothing leaks, nothing is half made."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agentd.client import Sandbox
from agentd.errors import SnapStartError
from agentd.image import Image
from agentd.wire import api
from bench.demo import IMAGES, MEMORY_MIB
from bench.node import Node
from tests.integration.node.conftest import TEMPLATE
from tests.integration.node.survey import Survey, list_live, settle
from tests.integration.node.tracing import CREATING, killed_at

pytestmark = [pytest.mark.vm, pytest.mark.restarts, pytest.mark.timeout(900)]

LIVE = 5
# More than any of the traced stretches has, so that the loop ends by running out of calls.
MOST_CALLS = 60


class Survivors:
    """Five live sessions with a variable each; one of them runs code whenever agentd dies."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ids = [node.create(TEMPLATE) for _ in range(LIVE)]
        for number, sandbox in enumerate(self._ids):
            sandbox.run_code(f"x = {number}; done = 0")
            sandbox.close()
        self.ids = frozenset(sandbox.sandbox_id for sandbox in self._ids)
        self._rounds = 0

    def _open(self, number: int) -> Sandbox:
        return Sandbox.connect(self._ids[number].sandbox_id, socket=self._node.socket)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """One session computes while the block runs; its client loses it with agentd."""
        self._rounds += 1
        sandbox = self._open(0)
        code = "import time\nfor _ in range(10): time.sleep(0.1)\ndone += 1"

        def run() -> None:
            with suppress(SnapStartError):
                sandbox.run_code(code, timeout=60)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join()
            sandbox.close()

    def assert_all_answer(self) -> None:
        """Every variable is what it was; the code that ran has run to its end."""
        for number in range(LIVE):
            sandbox = self._open(number)
            try:
                assert sandbox.run_code("x", timeout=60).text == str(number)
                if number == 0:
                    assert sandbox.run_code("done", timeout=60).text == str(self._rounds)
            finally:
                sandbox.close()


@pytest.fixture(scope="module")
def doomed(guest_image: Image) -> Iterator[Node]:
    with Node(IMAGES, MACHINES__MEMORY_MIB=str(MEMORY_MIB)) as running:
        running.build_template(TEMPLATE, str(guest_image.directory))
        yield running


@pytest.fixture(scope="module")
def survivors(doomed: Node) -> Survivors:
    return Survivors(doomed)


def attempt_fork(node: Node) -> bool:
    """Fork; False when agentd died over it."""
    try:
        node.create(TEMPLATE).kill()
    except SnapStartError:
        return False
    return True


def forks_killed_at(
    node: Node, survivors: Survivors, call: str, log: Path, *more: str
) -> Iterator[tuple[int, Survey]]:
    """Kill agentd at each such call of one fork in turn; yield what its successor has."""
    for number in range(1, MOST_CALLS):
        # A daemon's first fork reads the template too, chunk by chunk; that is not traced here.
        node.create(TEMPLATE).kill()
        with survivors.busy(), killed_at(node.pid, call, number, log, *more):
            if attempt_fork(node):
                return
        node.reap()
        node.start()
        yield number, settle(node)
    raise AssertionError(f"a fork makes more than {MOST_CALLS} calls of {call}")


def end_extra(node: Node, survivors: Survivors) -> None:
    """End what the interrupted request left as a whole session: nobody asked for its end."""
    for session in list_live(node):
        if session.id not in survivors.ids:
            Sandbox.connect(session.id, socket=node.socket).kill()


def assert_nothing_lost(found: Survey, survivors: Survivors, number: int) -> None:
    assert found.is_settled, f"after call {number}: {found}"
    assert found.sessions >= survivors.ids, f"after call {number}: {found}"


@pytest.mark.parametrize("call", CREATING)
def test_killed_at_each_call_that_creates_something_in_a_fork(
    doomed: Node, survivors: Survivors, tmp_path: Path, call: str
) -> None:
    killed = 0
    for number, found in forks_killed_at(doomed, survivors, call, tmp_path / "strace"):
        assert_nothing_lost(found, survivors, number)
        survivors.assert_all_answer()
        end_extra(doomed, survivors)
        killed = number
    assert killed >= 1


def test_killed_at_each_write_of_the_journal_in_a_fork(
    doomed: Node, survivors: Survivors, tmp_path: Path
) -> None:
    journal = str(next((doomed.root / "run").glob("*journal*")))
    killed = 0
    log = tmp_path / "strace"
    for number, found in forks_killed_at(doomed, survivors, "write", log, "-P", journal):
        assert_nothing_lost(found, survivors, number)
        survivors.assert_all_answer()
        end_extra(doomed, survivors)
        killed = number
    assert killed >= 2


def build(node: Node, image: Image) -> bool:
    """Build a second template; False when agentd died over it."""
    try:
        node.build_template("second", str(image.directory))
    except SnapStartError:
        return False
    return True


@pytest.mark.parametrize("call", ["/^rename", "/^mkdir", "fsync"], ids=["rename", "mkdir", "fsync"])
def test_killed_at_each_call_that_seals_a_template(
    doomed: Node, survivors: Survivors, guest_image: Image, tmp_path: Path, call: str
) -> None:
    """The calls of a build from the frozen guest on; what precedes them is a fork's."""
    killed = 0
    for number in range(1, MOST_CALLS):
        with killed_at(doomed.pid, call, number, tmp_path / "strace"):
            is_built = build(doomed, guest_image)
        if is_built:
            break
        doomed.reap()
        doomed.start()
        found = settle(doomed)
        assert_nothing_lost(found, survivors, number)
        assert list((doomed.root / "data" / "staging").iterdir()) == []
        remove_template(doomed, "second")
        killed = number
    assert killed >= 1
    survivors.assert_all_answer()
    remove_template(doomed, "second")


def remove_template(node: Node, name: str) -> None:
    """Whole or failed, never half: it can be used, or it says why not; then it is removed."""
    known = {one.name: one for one in node.templates()}
    if name not in known:
        return
    assert known[name].state in (api.TemplateState.READY, api.TemplateState.FAILED)
    if known[name].state is api.TemplateState.READY:
        with node.create(name) as sandbox:
            assert sandbox.run_code("1 + 1").text == "2"
    node.remove_template(name)
