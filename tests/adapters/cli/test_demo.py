"""A node of one's own fails with the words of its daemon; the demo notices forks that share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.cli.demo import check_isolation
from agentd.cli.demo_starts import Start
from agentd.cli.private_node import Node
from agentd.client.execution import Execution, Result
from agentd.errors import ErrorCode, PermanentError
from agentd.wire.demo import Sample
from tests.fakes.local_api import FakeLocalApi


@pytest.fixture
def node(daemon: FakeLocalApi, tmp_path: Path) -> Iterator[Node]:
    """A node whose daemon is the fake."""
    made = Node(tmp_path)
    made.socket = daemon.socket_path
    yield made
    made.__exit__(None, None, None)
    assert not made.root.exists()


def test_a_failed_build_keeps_the_code_of_the_daemon(daemon: FakeLocalApi, node: Node) -> None:
    daemon.build_error = {"code": "disk_full", "message": "no space in /d", "hint": "free some"}
    with pytest.raises(PermanentError, match="building template 'made': no space in /d") as caught:
        node.build_template("made", "image")
    assert (caught.value.code, caught.value.hint) == (ErrorCode.DISK_FULL, "free some")


def test_a_build_that_fails_without_a_reason_is_a_failed_build(
    daemon: FakeLocalApi, node: Node
) -> None:
    daemon.add_template("odd", state="removing")
    with pytest.raises(PermanentError, match="it is removing") as caught:
        node.wait_for_template(daemon_template(node, "odd"))
    assert caught.value.code is ErrorCode.TEMPLATE_BUILD_FAILED


def daemon_template(node: Node, name: str) -> Any:
    return next(one for one in node.templates() if one.name == name)


def test_a_daemon_that_cannot_start_says_why_with_its_code(tmp_path: Path) -> None:
    missing = str(tmp_path / "no-qemu")
    node = Node(tmp_path, MONITOR__QEMU_BINARY=missing)
    with pytest.raises(PermanentError, match="no-qemu") as caught, node:
        raise AssertionError("it started")
    assert caught.value.code is ErrorCode.MONITOR_MISSING
    assert not node.root.exists()


class FakeSandbox:
    """A fork that sees of others what it is told to."""

    def __init__(self, sees: str) -> None:
        self._result = Result(data={"text/plain": sees}, is_main_result=True)

    def run_code(self, _code: str) -> Execution:
        return Execution(results=[self._result])


def starts(*seen: str) -> list[Any]:
    return [Start(FakeSandbox(one), Sample(1.0, 1.0), None) for one in seen]  # type: ignore[arg-type]


def test_forks_that_see_nothing_of_each_other_are_isolated() -> None:
    nothing = "(False, False, False)"
    check_isolation(starts(nothing, nothing, nothing))


def test_a_fork_that_sees_what_another_did_is_a_failure() -> None:
    with pytest.raises(PermanentError, match="True") as caught:
        check_isolation(starts("", "(False, True, False)"))
    assert caught.value.code is ErrorCode.GUEST_CONTAMINATED
