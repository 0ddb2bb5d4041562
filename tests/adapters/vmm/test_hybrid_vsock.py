"""The way to a guest's port, with monitors that serve, refuse, lie, fall silent."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, PeerError
from agentd.vmm import hybrid_vsock


class Monitor:
    """Listens as one does. says: what each connection is answered, in turn, the last one for ever:
    bytes; None hangs up, a number of seconds is silence.
    """

    def __init__(self, *says: bytes | float | None) -> None:
        self._says = list(says)
        self.asked: list[bytes] = []
        self.came = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            self.asked.append(await reader.readline())
            self.came.set()
            says = self._says.pop(0) if len(self._says) > 1 else self._says[0]
            if isinstance(says, float):
                await asyncio.sleep(says)
            elif says is not None:
                writer.write(says)
                await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[Monitor]:
        server = await asyncio.start_unix_server(self._connected, path)
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


async def connect(path: Path, deadline_s: float = 10.0) -> socket.socket:
    return await hybrid_vsock.connect(path, hybrid_vsock.GUEST_PORT, deadline_s=deadline_s)


async def test_what_the_guest_says_first_is_still_there(tmp_path: Path) -> None:
    path = tmp_path / "v"
    async with Monitor(b"OK 1073741824\nOK 1\nhello").listening(path) as monitor:
        with await connect(path) as sock:
            assert sock.getblocking() is False
            assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"OK 1\nhello"
    assert monitor.asked == [b"CONNECT 1024\n"]


async def test_an_answer_in_pieces_is_put_together(tmp_path: Path) -> None:
    path = tmp_path / "v"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        for byte in b"OK 10737\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.transport.abort() if await reader.read() else writer.close()

    server = await asyncio.start_unix_server(serve, path)
    (await connect(path)).close()
    server.close()
    await asyncio.sleep(0.05)


async def test_a_guest_that_refuses_for_a_while_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "v"
    async with Monitor(None, None, None, b"OK 1\n").listening(path) as monitor:
        (await connect(path)).close()
    assert len(monitor.asked) == 4


async def test_a_request_that_got_lost_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "v"
    async with Monitor(60.0, b"OK 1\n").listening(path) as monitor:
        (await connect(path)).close()
    assert len(monitor.asked) == 2


async def test_a_monitor_that_listens_later_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "v"
    connecting = asyncio.create_task(connect(path))
    await asyncio.sleep(0.05)
    with socket.socket(socket.AF_UNIX) as stale:  # bound, nobody listens
        stale.bind(str(path))
        await asyncio.sleep(0.05)
    assert not connecting.done()
    path.unlink()
    async with Monitor(b"OK 1\n").listening(path):
        (await connecting).close()


@pytest.mark.parametrize(
    ("says", "problem"),
    [(None, "hung up: nobody listens in the guest"),
     (60.0, "asked and has not answered|no answer in 0.25 s"),
     (b"OK", "asked and has not answered|no answer in")],
    ids=["refusing", "silent", "half_a_line"],
)  # fmt: skip
async def test_at_the_deadline_the_last_problem_is_named(
    tmp_path: Path, says: bytes | float | None, problem: str
) -> None:
    path = tmp_path / "v"
    async with Monitor(says).listening(path):
        with pytest.raises(PeerError, match=problem) as caught:
            await connect(path, deadline_s=0.6)
    assert caught.value.code is ErrorCode.GUEST_NOT_READY
    assert f"port 1024 of the guest behind {str(path)!r}" in caught.value.message


async def test_without_a_socket_the_deadline_says_so(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="No such file or directory") as caught:
        await connect(tmp_path / "v", deadline_s=0.1)
    assert caught.value.code is ErrorCode.GUEST_NOT_READY


@pytest.mark.parametrize(
    "says", [b"NO\n", b"OK\n", b"OK x\n", b"OK 1 \n", b"ok 1\n", b"OK 12345678901\n", b"x" * 64],
)  # fmt: skip
async def test_another_answer_is_no_monitor_s(tmp_path: Path, says: bytes) -> None:
    path = tmp_path / "v"
    async with Monitor(says).listening(path) as monitor:
        with pytest.raises(PeerError, match="came where 'OK <port>' is due") as caught:
            await connect(path)
    assert caught.value.code is ErrorCode.VMM_PROTOCOL
    assert len(monitor.asked) == 1


async def test_a_link_in_the_socket_s_place_is_refused(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "v"
    path.symlink_to(other)
    async with Monitor(b"OK 1\n").listening(other) as monitor:
        with pytest.raises(PeerError, match="it is not a socket"):
            await connect(path)
    assert monitor.asked == []


async def test_a_cancelled_caller_leaves_no_socket(tmp_path: Path) -> None:
    path = tmp_path / "v"
    async with Monitor(60.0).listening(path) as monitor:
        connecting = asyncio.create_task(connect(path))
        await asyncio.wait_for(monitor.came.wait(), 5)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


async def test_a_monitor_with_a_full_backlog_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "v"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        waiting = []
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            waiting.append(sock)
            try:
                sock.connect(str(path))
            except BlockingIOError:
                break
        with pytest.raises(PeerError, match=os.strerror(11)):
            await connect(path, deadline_s=0.1)
        for sock in waiting:
            sock.close()
