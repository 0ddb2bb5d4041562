"""HTTP over a Unix socket, with whoever may listen there."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError
from agentd.vmm.http_socket import HttpSocket, pin
from tests.conftest import open_fds

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(path: Path, serve: Serve) -> AsyncIterator[list[bytes]]:
    """Gives the heads of what was asked for."""
    heads: list[bytes] = []
    tasks: set[asyncio.Task[object]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_unix_server(connected, path)
    try:
        yield heads
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(answer: bytes) -> Serve:
    """One answer, to whatever is asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def test_an_answer_is_its_status_with_its_body_refusals_too(tmp_path: Path) -> None:
    path = tmp_path / "api"
    answer = b"HTTP/1.1 400 \r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    async with listening(path, saying(answer)) as heads, HttpSocket(path) as http:
        got = await http.call("PUT", "/a/b", b'{"x":1}', deadline_s=5)
    assert (got.status, got.body) == (400, b"{}")
    first, *rest = heads[0].decode().lower().split("\r\n")
    assert first == "put /a/b http/1.1"
    assert "content-type: application/json" in rest
    assert "content-length: 7" in rest
    assert not any(line.startswith(("accept-encoding", "user-agent")) for line in rest)


async def test_an_answer_without_a_body_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "api"
    async with listening(path, saying(b"HTTP/1.1 204 \r\n\r\n")), HttpSocket(path) as http:
        got = await http.call("PUT", "/", deadline_s=5)
    assert (got.status, got.body) == (204, b"")


async def test_a_call_whose_connection_breaks_is_not_made_again(tmp_path: Path) -> None:
    """What was ordered may have been done."""
    path = tmp_path / "api"
    async with listening(path, saying(b"")) as heads, HttpSocket(path) as http:
        for _ in range(2):
            with pytest.raises(PeerError):
                await http.call("PUT", "/order", b"{}", deadline_s=5)
    assert len(heads) == 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", ErrorCode.VMM_FAILED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", ErrorCode.VMM_FAILED),
        (b"hello\r\n\r\n", ErrorCode.VMM_PROTOCOL),
        (b"HTTP/1.1 2000 \r\n\r\n", ErrorCode.VMM_PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", ErrorCode.VMM_PROTOCOL),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", ErrorCode.VMM_PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 9_999_999,
         ErrorCode.VMM_PROTOCOL),
    ],
    ids=["hangs_up", "half", "no_http", "no_status", "no_length", "long_head", "long_body"],
)  # fmt: skip
async def test_whatever_is_no_answer_is_a_peer_error(
    tmp_path: Path, answer: bytes, code: ErrorCode
) -> None:
    path = tmp_path / "api"
    async with listening(path, saying(answer)), HttpSocket(path) as http:
        with pytest.raises(PeerError) as caught:
            await http.call("GET", "/who", deadline_s=5)
    assert caught.value.code is code
    assert f"calling GET /who at {str(path)!r}" in caught.value.message


async def test_a_redirection_is_an_answer_and_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "api"
    answer = b"HTTP/1.1 302 \r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n"
    async with listening(path, saying(answer)) as heads, HttpSocket(path) as http:
        assert (await http.call("GET", "/", deadline_s=5)).status == 302
    assert len(heads) == 1


async def test_silence_ends_with_the_deadline(tmp_path: Path) -> None:
    path = tmp_path / "api"
    async with listening(path, silent), HttpSocket(path) as http:
        with pytest.raises(TransientError, match=r"GET / at .*: no answer in 0\.1 s") as caught:
            await http.call("GET", "/", deadline_s=0.1)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED


async def test_a_cancelled_call_hangs_up(tmp_path: Path) -> None:
    path, came, gone = tmp_path / "api", asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        gone.set()

    async with listening(path, serve), HttpSocket(path) as http:
        call = asyncio.create_task(http.call("GET", "/", deadline_s=30))
        await asyncio.wait_for(came.wait(), 5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(gone.wait(), 5)


async def failure(http: HttpSocket) -> SnapStartError:
    """Of a call that finds nobody."""
    with pytest.raises(PeerError) as caught:
        await http.call("GET", "/", deadline_s=5)
    return caught.value


async def test_a_socket_that_is_not_there_or_that_nobody_serves_is_a_peer_error(
    tmp_path: Path,
) -> None:
    path = tmp_path / "api"
    async with HttpSocket(path) as http:
        assert (await failure(http)).message.endswith("No such file or directory")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
        assert "Connection refused" in (await failure(http)).message


async def test_a_link_or_a_file_in_the_socket_s_place_is_refused(tmp_path: Path) -> None:
    """Whoever may write to the directory must not lead us to another's socket."""
    other, link, plain = tmp_path / "other", tmp_path / "link", tmp_path / "plain"
    plain.touch()
    link.symlink_to(other)
    async with listening(other, saying(b"HTTP/1.1 204 \r\n\r\n")) as heads:
        for path in (link, plain):
            async with HttpSocket(path) as http:
                assert "it is not a socket" in (await failure(http)).message
    assert heads == []


async def test_a_path_may_be_longer_than_a_socket_s_address(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    async with listening(tmp_path / "api", saying(b"HTTP/1.1 204 \r\n\r\n")):
        (tmp_path / "api").rename(deep / "api")
        async with HttpSocket(deep / "api") as http:
            assert (await http.call("GET", "/", deadline_s=5)).status == 204


async def test_nothing_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "api"
    async with listening(path, saying(b"HTTP/1.1 204 \r\n\r\n")):
        before = open_fds()
        http = HttpSocket(path)
        await http.call("GET", "/", deadline_s=5)
        await http.close()
        await http.close()
        await asyncio.sleep(0)
        assert repr(http) == f"<HttpSocket {str(path)!r} idle>"
        left = {fd: text for fd, text in open_fds().items() if before.get(fd) != text}
        assert not [text for text in left.values() if not text.startswith("socket:")], left


def test_a_pin_is_of_the_socket_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        fd = pin(tmp_path / "s")
        os.close(fd)
    with pytest.raises(OSError) as caught:
        pin(tmp_path)
    assert caught.value.errno == errno.ENOTSOCK
