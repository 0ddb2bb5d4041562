"""The host side against the real runtime, which runs in a process instead of a VM.

Between them stands what a VMM is to both: a listening socket whose consecutive connections are
one byte channel to the guest.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ErrorCode, PeerError, UsageError
from agentd.warmfork import GuestChannel
from agentd.warmfork.execution import collect_execution, execute
from agentd.warmfork.files import get_file, list_entries, put_file, remove, stat
from agentd.warmfork.frames import MARKER
from agentd.warmfork.relay import relay_http
from agentd.warmfork.services import (
    fetch_status,
    interrupt,
    restart_interpreter,
    shutdown,
    take_baseline,
)
from agentd.warmfork.verdict import Finding, HostKnowledge, judge_contamination
from agentd.wire import api
from agentd.wire.guest import ExecuteRequest, Stdout

PROGRAM = Path(__file__).parents[1] / "guest" / "runtime_process.py"
ROOT = Path(__file__).parents[3]


class FakeVmm:
    """Listens, carries bytes between whoever is connected and the guest, keeps nothing."""

    def __init__(self, path: Path, guest: socket.socket) -> None:
        self.path = path
        self._sock = guest
        self._hosts: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeVmm]:
        reader, self._guest = await asyncio.open_unix_connection(sock=self._sock)
        server = await asyncio.start_unix_server(self._serve, self.path)
        pump = asyncio.create_task(self._to_host(reader))
        try:
            yield self
        finally:
            server.close()
            pump.cancel()
            await asyncio.wait((pump,))
            for writer in (*self._hosts, self._guest):
                writer.transport.abort()
            await server.wait_closed()
            await asyncio.sleep(0.01)

    async def _to_host(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                for writer in self._hosts[-1:]:
                    writer.write(data)
        for writer in self._hosts:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._hosts.append(writer)
        try:
            while data := await reader.read(65536):
                self._guest.write(data)
                await self._guest.drain()
        except ConnectionError:
            pass
        finally:
            self._hosts.remove(writer)
            writer.transport.abort()


def _spawn(channel_fd: int, settings: dict[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(channel_fd), json.dumps(settings)],
        pass_fds=[channel_fd],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )


Start = Callable[..., Awaitable[Path]]


@pytest.fixture
async def start(nothing_is_left: None) -> AsyncIterator[Start]:
    # Short: the path of a Unix socket has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="warmfork-"))
    processes: list[subprocess.Popen[bytes]] = []
    async with AsyncExitStack() as stack:

        async def begin(**settings: Any) -> Path:
            ours, theirs = socket.socketpair()
            (directory / "workspace").mkdir()
            members = {
                "workspace": str(directory / "workspace"),
                "inject_socket": str(directory / "inject.sock"),
                "session_file": str(directory / "session.json"),
                "file_roots": [str(directory / "home")],
                **settings,
            }
            with theirs:
                processes.append(_spawn(theirs.fileno(), members))
            await stack.enter_async_context(FakeVmm(directory / "c.sock", ours).running())
            return directory / "c.sock"

        yield begin
    for process in processes:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)
    shutil.rmtree(directory)


@pytest.fixture
async def session(start: Start) -> AsyncIterator[GuestChannel]:
    """A channel to a runtime whose gate is open."""
    path = await start(is_gated=False)
    async with await GuestChannel.connect(path, deadline_s=30) as channel:
        yield channel


def _request(code: str, **changes: Any) -> ExecuteRequest:
    members = {"timeout_s": 30.0, "max_output_bytes": 1 << 20, "max_result_bytes": 10 << 20}
    return ExecuteRequest(execution_id="e1", code=code, **{**members, **changes})


async def _run(channel: GuestChannel, code: str, **changes: Any) -> api.Execution:
    request = _request(code, **changes)
    async with asyncio.timeout(45), execute(channel, request) as events:
        return await collect_execution(request, events)


# -- template -----------------------------------------------------------------------------------


async def test_runtime_at_its_checkpoint_is_clean(start: Start) -> None:
    path = await start(is_gated=True)
    async with await GuestChannel.connect(path, deadline_s=30) as channel:
        await take_baseline(channel, deadline_s=20)
        status = await fetch_status(channel, deadline_s=20)
        verdict = judge_contamination(status, HostKnowledge(channel.opened, False))
        assert verdict.finding is Finding.CLEAN, verdict
        with pytest.raises(PeerError, match="gate_closed") as info:
            await _run(channel, "1")
        assert info.value.code is ErrorCode.GUEST_NOT_READY
        verdict = judge_contamination(status, HostKnowledge(channel.opened, False))
        assert verdict.finding is Finding.CONTAMINATED


async def test_file_in_the_workspace_contaminates(start: Start, tmp_path: Path) -> None:
    path = await start(is_gated=True)
    async with await GuestChannel.connect(path, deadline_s=30) as channel:
        await take_baseline(channel, deadline_s=20)
        (path.parent / "workspace" / "left").write_text("x")
        status = await fetch_status(channel, deadline_s=20)
        verdict = judge_contamination(status, HostKnowledge(channel.opened, False))
        assert verdict.finding is Finding.CONTAMINATED
        assert "workspace is not empty" in str(verdict)


# -- execute ------------------------------------------------------------------------------------


async def test_code_runs_and_keeps_its_namespace(session: GuestChannel) -> None:
    first = await _run(session, "import sys\nx = 20\nprint('out'); print('err', file=sys.stderr)")
    assert (first.status, first.stdout, first.stderr) == ("ok", "out\n", "err\n")
    second = await _run(session, "x + 22")
    assert (second.text, second.execution_count) == ("42", 2)


async def test_exception_is_told(session: GuestChannel) -> None:
    execution = await _run(session, "1/0")
    assert execution.status == "error"
    assert execution.error is not None
    assert execution.error.name == "ZeroDivisionError"


async def test_output_that_is_not_unicode_arrives(session: GuestChannel) -> None:
    code = "import sys; sys.stdout.buffer.write(b'a\\xffb'); raise ValueError('\\udcff')"
    execution = await _run(session, code)
    assert execution.stdout.startswith("a")
    assert execution.error is not None
    assert execution.error.value == "?"


async def test_output_over_the_limit_is_cut(session: GuestChannel) -> None:
    execution = await _run(session, "print('x' * 3_000_000)", max_output_bytes=100_000)
    assert execution.stdout == "x" * 100_000
    assert execution.stdout_truncated


async def test_long_output_passes_the_windows(session: GuestChannel) -> None:
    execution = await _run(session, "print('y' * 3_000_000)", max_output_bytes=4_000_000)
    assert execution.stdout == "y" * 3_000_000 + "\n"
    assert not execution.stdout_truncated


async def test_execution_can_be_interrupted(session: GuestChannel) -> None:
    request = _request("import time\nprint('go', flush=True)\ntime.sleep(60)", timeout_s=50)
    async with execute(session, request) as events:
        assert await anext(events) == Stdout(text="go\n")
        await interrupt(session, deadline_s=30)
        assert (await collect_execution(request, events)).status == "interrupted"


async def test_interpreter_that_exits_is_replaced(session: GuestChannel) -> None:
    execution = await _run(session, "import os; os._exit(3)")
    assert (execution.status, execution.namespace_lost) == ("exited", True)
    assert (await _run(session, "1")).text == "1"
    await _run(session, "x = 1")
    await restart_interpreter(session, deadline_s=10)
    assert (await _run(session, "x")).status == "error"


async def test_execution_left_early_goes_on(session: GuestChannel) -> None:
    request = ExecuteRequest(
        execution_id="e", code="y = 7", timeout_s=30, max_output_bytes=1000, max_result_bytes=1000
    )
    async with execute(session, request):
        pass
    # The stream may have been reset before the request was looked at; the channel is what counts.
    assert (await _run(session, "1")).text == "1"


# -- files --------------------------------------------------------------------------------------


async def _source(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 100_000):
        yield content[at : at + 100_000]


async def _get(channel: GuestChannel, path: str) -> bytes:
    async with get_file(channel, path, deadline_s=20) as download:
        return b"".join([chunk async for chunk in download.chunks])


@pytest.mark.parametrize(
    "content",
    [b"", b"x", os.urandom(1000) + MARKER * 3 + bytes(3_000_000), MARKER],
    ids=["empty", "byte", "large", "marker"],
)
async def test_file_survives_the_round_trip(session: GuestChannel, content: bytes) -> None:
    await put_file(
        session, "d/a.bin", _source(content), size_bytes=len(content), mode=0o640, deadline_s=20
    )
    assert await _get(session, "d/a.bin") == content
    entry = await stat(session, "d/a.bin", deadline_s=20)
    assert (entry.kind, entry.size) == ("file", len(content))
    assert [one.size for one in await list_entries(session, "d", deadline_s=20)] == [len(content)]
    await remove(session, "d", deadline_s=20)
    with pytest.raises(UsageError) as info:
        await _get(session, "d/a.bin")
    assert info.value.code is ErrorCode.FILE_NOT_FOUND


async def test_file_whose_length_begins_a_marker_survives(session: GuestChannel) -> None:
    content = MARKER[2:].ljust(0xF553, b"x")
    await put_file(session, "a", _source(content), size_bytes=len(content), deadline_s=20)
    assert await _get(session, "a") == content


async def test_put_over_a_directory_is_refused(session: GuestChannel) -> None:
    content = bytes(1_000_000)
    with pytest.raises(UsageError, match="is_directory"):
        await put_file(session, ".", _source(content), size_bytes=len(content), deadline_s=20)


async def test_cancelled_put_leaves_no_file(session: GuestChannel) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(10_000)
            await asyncio.sleep(0.001)

    put = put_file(session, "part", endless(), size_bytes=1 << 40, deadline_s=20)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(put, 0.2)
    assert await list_entries(session, ".", deadline_s=20) == []


# -- http, connections, end ---------------------------------------------------------------------


async def test_http_interface_answers_through_a_stream(session: GuestChannel) -> None:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay_http(session, reader, writer)
        writer.close()
        ended.set_result(None)

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")
        reply = await reader.read()
        writer.close()
        await writer.wait_closed()
        await ended
    assert reply.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
    assert b'"gate"' in reply


async def test_execution_outlives_its_connection(start: Start) -> None:
    path = await start(is_gated=False)
    request = ExecuteRequest(
        execution_id="e",
        code="import time\nprint('go', flush=True)\ntime.sleep(0.5)\nz = 5",
        timeout_s=30,
        max_output_bytes=1000,
        max_result_bytes=1000,
    )
    channel = await GuestChannel.connect(path, deadline_s=30)
    async with channel, execute(channel, request) as events:
        await anext(events)
        await channel.close()
    async with await GuestChannel.connect(path, deadline_s=30) as channel:
        assert (await _run(channel, "z")).text == "5"


async def test_host_that_died_within_a_frame_is_followed_by_another(start: Start) -> None:
    path = await start(is_gated=False)
    async with await GuestChannel.connect(path, deadline_s=30) as channel:
        stream = await channel.open("execute")
        channel._write(b"SF\x04\x00\x00\x00\x00\x01\x00\x00\xff\xff" + b"half a frame")
        assert "execute" in repr(stream)
    async with await GuestChannel.connect(path, deadline_s=30) as channel:
        assert (await _run(channel, "6 * 7")).text == "42"


async def test_64_streams_work_at_once(session: GuestChannel) -> None:
    statuses = await asyncio.gather(*(fetch_status(session, deadline_s=40) for _ in range(100)))
    assert len(statuses) == 100


async def test_shutdown_ends_the_runtime(session: GuestChannel) -> None:
    await shutdown(session, deadline_s=20)
    async with asyncio.timeout(20):
        assert (await session.closed).code is ErrorCode.VMM_FAILED
