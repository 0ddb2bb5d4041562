"""What clients do while their daemon is replaced."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.client import AsyncSandbox, Sandbox, Transport, calls
from agentd.errors import ErrorCode, TransientError
from tests.fakes.local_api import FakeLocalApi

Act = Callable[[], None]


def read_request(link: socket.socket) -> bytes:
    """All of it: head and body may come one after the other."""
    found = b""
    while b"after" not in found:
        found += link.recv(65536)
    return found


def blocking(path: Path, between: Act) -> str | None:
    """Connect, let something happen, run code."""
    sandbox = Sandbox.connect("s1", socket=path)
    try:
        between()
        return sandbox.run_code("after").text
    finally:
        sandbox.close()


def asynchronous(path: Path, between: Act) -> str | None:
    """The same."""

    async def main() -> str | None:
        sandbox = await AsyncSandbox.connect("s1", socket=path)
        try:
            between()
            return (await sandbox.run_code("after")).text
        finally:
            await sandbox.close()

    return asyncio.run(main())


@pytest.fixture(params=[blocking, asynchronous], ids=["blocking", "async"])
def use(request: pytest.FixtureRequest) -> Callable[[Path, Act], str | None]:
    chosen: Callable[[Path, Act], str | None] = request.param
    return chosen


class Nodes:
    """Daemons on one path, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = self._begin()
        self._late: threading.Thread | None = None

    def _begin(self) -> FakeLocalApi:
        daemon = FakeLocalApi(self.path)
        daemon.add_template()
        daemon.add_session()
        return daemon.__enter__()

    def end(self) -> None:
        self.now.__exit__(None, None, None)
        self.path.unlink(missing_ok=True)

    def begin(self) -> None:
        self.now = self._begin()

    def begin_later(self, after_s: float) -> None:
        self._late = threading.Timer(after_s, self.begin)
        self._late.start()

    def close(self) -> None:
        if self._late is not None:
            self._late.join()
        self.end()


def test_a_client_waits_for_the_successor_of_a_daemon_that_served_it(
    tmp_path: Path, use: Callable[[Path, Act], str | None]
) -> None:
    nodes = Nodes(tmp_path / "agentd.sock")

    def replace() -> None:
        nodes.end()
        nodes.begin_later(0.3)

    try:
        assert use(nodes.path, replace) == "after"
    finally:
        nodes.close()
    assert len(nodes.now.bodies) == 1


def test_a_request_that_nobody_read_is_sent_to_the_successor(
    tmp_path: Path, use: Callable[[Path, Act], str | None]
) -> None:
    nodes = Nodes(tmp_path / "agentd.sock")

    def replace() -> None:
        nodes.end()
        deaf = socket.socket(socket.AF_UNIX)
        deaf.bind(str(nodes.path))
        deaf.listen()

        def give_way() -> None:
            time.sleep(0.3)  # long enough for the request to lie there
            deaf.close()
            nodes.path.unlink()
            nodes.begin()

        nodes._late = threading.Thread(target=give_way)
        nodes._late.start()

    try:
        assert use(nodes.path, replace) == "after"
    finally:
        nodes.close()
    assert len(nodes.now.bodies) == 1


def test_a_request_that_was_read_is_not_sent_again(
    tmp_path: Path, use: Callable[[Path, Act], str | None]
) -> None:
    nodes = Nodes(tmp_path / "agentd.sock")
    received: list[bytes] = []

    def replace() -> None:
        nodes.end()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(nodes.path))
        listener.listen()

        def read_and_die() -> None:
            with listener, listener.accept()[0] as link:
                received.append(read_request(link))
            nodes.path.unlink()
            nodes.begin()

        nodes._late = threading.Thread(target=read_and_die)
        nodes._late.start()

    try:
        with pytest.raises(TransientError, match="hung up") as info:
            use(nodes.path, replace)
    finally:
        nodes.close()
    assert info.value.code is ErrorCode.AGENT_UNREACHABLE
    assert (len(received), nodes.now.bodies) == (1, [])


def test_a_client_that_was_never_served_does_not_wait(tmp_path: Path) -> None:
    begun_s = time.monotonic()
    transport = Transport(tmp_path / "none.sock")
    with pytest.raises(TransientError, match="there is no such socket"):
        transport.send(calls.health())
    transport.close()
    assert time.monotonic() - begun_s < 20, "of 30 it would have waited"


def test_waiting_ends_with_the_time_for_the_call(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "agentd.sock")
    transport = Transport(nodes.path)
    transport.send(calls.health())
    nodes.end()
    call = calls.Call("ask", "POST", "/v1/x", bytes, timeout_s=0.2)
    with pytest.raises(TransientError, match="cannot reach agentd") as info:
        transport.send(call)
    transport.close()
    assert info.value.code is ErrorCode.AGENT_UNREACHABLE
