"""Noticing that a runtime listens, however it gets there."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd import native
from agentd.errors import PeerError
from tests.adapters.native.guests import CAPABILITIES, frame

LONG_S = 20.0
Server = Callable[[socket.socket], None]


def wait(path: Path, server: Server, seconds: float = LONG_S) -> bytes:
    """Wait while a thread runs the server; returns what is in the connected socket."""
    with socket.socket(socket.AF_UNIX) as listening:
        thread = threading.Thread(target=server, args=(listening,))
        thread.start()
        try:
            fd = native.wait_ready(str(path), deadline_ns=native.deadline_after(seconds))
            with socket.socket(fileno=fd) as connected:
                connected.setblocking(True)
                return connected.recv(65536)
        finally:
            thread.join()


def bind(listening: socket.socket, path: Path) -> None:
    """Bind relative to the directory, which may be too long for an address."""
    directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        listening.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def answer(listening: socket.socket, data: bytes, *, piece: int = 1 << 16) -> None:
    """Accept once and send."""
    connection, _ = listening.accept()
    with connection:
        for start in range(0, len(data), piece):
            connection.sendall(data[start : start + piece])


def test_socket_that_appears_later_is_found(tmp_path: Path) -> None:
    path = tmp_path / "ready.sock"

    def serve(listening: socket.socket) -> None:
        threading.Event().wait(0.05)
        bind(listening, path)
        threading.Event().wait(0.02)  # bound, not yet listening
        listening.listen(1)
        answer(listening, frame(CAPABILITIES))

    assert wait(path, serve) == frame(CAPABILITIES)


def test_socket_renamed_into_place_is_found(tmp_path: Path) -> None:
    path = tmp_path / "ready.sock"

    def serve(listening: socket.socket) -> None:
        bind(listening, tmp_path / "new")
        listening.listen(1)
        threading.Event().wait(0.05)
        (tmp_path / "new").rename(path)
        answer(listening, frame(CAPABILITIES))

    assert wait(path, serve) == frame(CAPABILITIES)


def test_stale_socket_is_outwaited(tmp_path: Path) -> None:
    path = tmp_path / "ready.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        bind(stale, path)

    def serve(listening: socket.socket) -> None:
        threading.Event().wait(0.05)
        path.unlink()
        bind(listening, path)
        listening.listen(1)
        answer(listening, frame(CAPABILITIES))

    assert wait(path, serve) == frame(CAPABILITIES)


def test_listener_that_dies_once_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "ready.sock"

    def serve(listening: socket.socket) -> None:
        bind(listening, path)
        listening.listen(1)
        listening.accept()[0].close()
        answer(listening, frame(CAPABILITIES))

    assert wait(path, serve) == frame(CAPABILITIES)


def test_one_wait_after_another_keeps_one_watch(tmp_path: Path) -> None:
    native.close_idle_watches()
    for number in range(3):
        path = tmp_path / f"{number}.sock"

        def serve(listening: socket.socket, path: Path = path) -> None:
            bind(listening, path)
            listening.listen(1)
            answer(listening, frame(CAPABILITIES))

        assert wait(path, serve) == frame(CAPABILITIES)
    assert native.close_idle_watches() == 1
    assert native.close_idle_watches() == 0


def test_many_waits_at_once_each_find_their_own(tmp_path: Path) -> None:
    found: dict[int, bytes] = {}

    def wait_for(number: int) -> None:
        path = tmp_path / str(number) / "ready.sock"
        path.parent.mkdir()

        def serve(listening: socket.socket) -> None:
            bind(listening, path)
            listening.listen(1)
            answer(listening, frame({**CAPABILITIES, "number": number}))

        found[number] = wait(path, serve)

    threads = [threading.Thread(target=wait_for, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: frame({**CAPABILITIES, "number": n}) for n in range(20)}
    assert 1 <= native.close_idle_watches() <= 16


def test_deep_directory_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)

    def serve(listening: socket.socket) -> None:
        bind(listening, deep / "ready.sock")
        listening.listen(1)
        answer(listening, frame(CAPABILITIES), piece=2)

    assert frame(CAPABILITIES).startswith(wait(deep / "ready.sock", serve)[:2])


def fail(path: str, seconds: float = 0.1) -> None:
    """Wait for what does not come."""
    os.close(native.wait_ready(path, deadline_ns=native.deadline_after(seconds)))


def test_missing_directory_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fail(str(tmp_path / "absent" / "ready.sock"), LONG_S)


def test_name_too_long_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        fail(str(tmp_path / ("n" * 108)), LONG_S)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_nobody_comes_before_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="nobody was ready"):
        fail(str(tmp_path / "ready.sock"))


def test_silent_listener_is_bound_by_the_deadline(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        bind(listening, tmp_path / "ready.sock")
        listening.listen(1)
        with pytest.raises(PeerError):
            fail(str(tmp_path / "ready.sock"))


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ready.sock"

    def serve(listening: socket.socket) -> None:
        bind(listening, path)
        listening.listen(1)
        answer(listening, b"HTTP/1.1 400 Bad Request\r\n")

    with pytest.raises(OSError, match="rotocol"):
        wait(path, serve)


def test_cancel_fd_ends_the_wait(tmp_path: Path) -> None:
    cancel_fd = os.eventfd(1, os.EFD_CLOEXEC)
    try:
        with pytest.raises(native.CallCancelledError):
            native.wait_ready(str(tmp_path / "s"), deadline_ns=native.NEVER_NS, cancel_fd=cancel_fd)
    finally:
        os.close(cancel_fd)
