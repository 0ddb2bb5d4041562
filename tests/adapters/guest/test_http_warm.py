"""A guest whose HTTP process cannot answer is no template."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from agentd.guest.http_bridge import HttpBridge
from agentd.guest.link import LinkError


def new_bridge(monkeypatch: pytest.MonkeyPatch, passed: socket.socket) -> HttpBridge:
    """Its process is whoever holds the other end of `passed`."""
    unused: Any = None
    settings: Any = SimpleNamespace(http_host="")
    bridge = HttpBridge(unused, settings, unused, unused)
    monkeypatch.setattr(bridge, "_start_process", lambda: setattr(bridge, "_connections", passed))
    return bridge


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> Callable[[], None]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    send_fds = socket.send_fds

    def send_and_answer(sock: socket.socket, buffers: Any, fds: list[int]) -> int:
        sent = send_fds(sock, buffers, fds)
        _data, received, _flags, _address = socket.recv_fds(theirs, 1, 1)
        with socket.socket(fileno=received[0]) as connection:
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            kept.append(connection.dup())
        return sent

    kept: list[socket.socket] = []
    monkeypatch.setattr(socket, "send_fds", send_and_answer)
    bridge = new_bridge(monkeypatch, ours)

    def warm() -> None:
        try:
            bridge.warm()
        finally:
            for one in (*kept, ours, theirs):
                one.close()

    return warm


def test_one_that_answers_is_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, b"HTTP/1.1 404 Not Found\r\n\r\n")()


def test_one_that_says_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LinkError, match="closed its first connection without an answer"):
        answer_with(monkeypatch, b"")()


def test_one_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    with ours, pytest.raises(LinkError, match="did not answer"):
        new_bridge(monkeypatch, ours).warm()
