"""Every service against a guest that serves it, refuses it, lies about it, or hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentd.errors import ErrorCode, PeerError, TransientError, UsageError
from agentd.warmfork import GuestChannel
from agentd.warmfork.execution import collect_execution, execute
from agentd.warmfork.files import get_file, list_entries, put_file, remove, stat
from agentd.warmfork.relay import relay_http
from agentd.warmfork.services import (
    fetch_status,
    interrupt,
    restart_interpreter,
    shutdown,
    take_baseline,
)
from agentd.wire.api import Entry
from agentd.wire.guest import ExecuteRequest, Stdout
from tests.fakes.guest_channel import CREDIT, FakeGuest, FakeStream, Service

STATUS: dict[str, Any] = {
    "checkpoint": "InterpreterReady",
    "safeToSnapshot": False,
    "userStateLoaded": False,
    "activeTasks": 0,
    "details": {"interpreterState": "idle", "workspaceEmpty": True, "preloadedPackages": ["numpy"]},
    "gate": "closed",
    "reasons": [],
    "processes": [],
    "baseline_processes": [],
    "runtime": {"version": "1", "python": "3.11", "kernel": "6.1"},
    "member_of_the_future": 1,
}
REQUEST = ExecuteRequest(
    execution_id="e1", code="1", timeout_s=5, max_output_bytes=1000, max_result_bytes=1000
)
DONE = {"type": "done"}


def answers(*bodies: dict[str, Any], seen: list[Any] | None = None) -> Service:
    """A service that reads to the end, if it has to record, then sends messages and closes."""

    async def serve(stream: FakeStream) -> None:
        if seen is not None:
            seen.append((stream.params, await stream.read_message()))
        for body in bodies:
            await stream.send_message(body)
        stream.close()

    return serve


async def silent(_stream: FakeStream) -> None:
    await asyncio.Event().wait()


async def test_status_is_decoded(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.services["status"] = answers(STATUS)
    status = await fetch_status(channel, deadline_s=10)
    assert (status.checkpoint, status.safe_to_snapshot) == ("InterpreterReady", False)
    assert status.details.preloaded_packages == ["numpy"]


async def test_baseline_is_asked_for_by_its_name(guest: FakeGuest, channel: GuestChannel) -> None:
    seen: list[Any] = []
    guest.services["checkpoint"] = answers(STATUS, seen=seen)
    assert (await take_baseline(channel, deadline_s=10)).gate == "closed"
    assert seen == [({"service": "checkpoint"}, {"op": "baseline"})]


async def test_signals_carry_their_operation(guest: FakeGuest, channel: GuestChannel) -> None:
    seen: list[Any] = []
    guest.services["signal"] = answers(DONE, seen=seen)
    await interrupt(channel, deadline_s=10)
    await restart_interpreter(channel, deadline_s=10)
    await shutdown(channel, deadline_s=10)
    assert [message["op"] for _, message in seen] == ["interrupt", "restart", "shutdown"]


async def test_losing_the_channel_completes_a_shutdown(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    async def die(stream: FakeStream) -> None:
        await stream.read_message()
        guest.hang_up()

    guest.services["signal"] = die
    await shutdown(channel, deadline_s=10)


@pytest.mark.parametrize(
    ("service", "problem"),
    [
        (answers({"type": "failed", "code": "hook_failed", "message": "why"}), "why"),
        (answers(), "without an answer"),
        (answers({"checkpoint": 1}), "checkpoint"),
    ],
    ids=["refusal", "nothing", "nonsense"],
)
async def test_answer_that_is_none_is_the_guests_fault(
    guest: FakeGuest, channel: GuestChannel, service: Service, problem: str
) -> None:
    guest.services["status"] = service
    with pytest.raises(PeerError, match=problem):
        await fetch_status(channel, deadline_s=10)


async def test_silent_guest_runs_into_the_deadline(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.services.update(status=silent, signal=answers(DONE))
    with pytest.raises(TransientError, match="status: the guest did not finish") as info:
        await fetch_status(channel, deadline_s=0.05)
    assert info.value.code is ErrorCode.DEADLINE_EXCEEDED
    await interrupt(channel, deadline_s=10)


# -- execute ------------------------------------------------------------------------------------

END = {"type": "end", "status": "ok", "detail": "", "execution_count": 1, "duration_s": 0.1}


async def test_execution_is_collected(guest: FakeGuest, channel: GuestChannel) -> None:
    seen: list[Any] = []
    guest.services["execute"] = answers(
        {"type": "stdout", "text": "a"},
        {"type": "result", "data": {"text/plain": "1"}, "main": True},
        END,
        seen=seen,
    )
    async with execute(channel, REQUEST) as events:
        execution = await collect_execution(REQUEST, events)
    assert (execution.status, execution.stdout, execution.text) == ("ok", "a", "1")
    assert seen[0][1] == {
        "execution_id": "e1",
        "code": "1",
        "timeout_s": 5,
        "max_output_bytes": 1000,
        "max_result_bytes": 1000,
        "env": {},
    }


async def test_leaving_an_execution_early_resets_its_stream(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    was_reset = asyncio.Event()

    async def chatter(stream: FakeStream) -> None:
        await stream.send_message({"type": "stdout", "text": "a"})
        await stream.was_reset.wait()
        was_reset.set()

    guest.services["execute"] = chatter
    async with execute(channel, REQUEST) as events:
        assert await anext(events) == Stdout(text="a")
    await was_reset.wait()


@pytest.mark.parametrize(
    ("service", "problem"),
    [
        (answers({"type": "stdout", "text": "a"}), "before the end"),
        (answers({"type": "stdout", "text": 1}), "text"),
        (answers({"type": "failed", "code": "io_error", "message": "disk"}), "disk"),
    ],
    ids=["no end", "nonsense", "refusal"],
)
async def test_execution_that_goes_wrong_is_the_guests_fault(
    guest: FakeGuest, channel: GuestChannel, service: Service, problem: str
) -> None:
    guest.services["execute"] = service
    async with execute(channel, REQUEST) as events:
        with pytest.raises(PeerError, match=problem):
            await collect_execution(REQUEST, events)


async def test_death_of_the_guest_ends_an_execution(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    async def die(stream: FakeStream) -> None:
        await stream.send_message({"type": "stdout", "text": "a"})
        await stream.read_message()
        guest.hang_up()

    guest.services["execute"] = die
    async with execute(channel, REQUEST) as events:
        with pytest.raises(PeerError, match="was lost"):
            await collect_execution(REQUEST, events)


async def test_closed_gate_refuses_an_execution(guest: FakeGuest, channel: GuestChannel) -> None:
    async def refuse(stream: FakeStream) -> None:
        stream.reset("gate_closed", "no session")

    guest.services["execute"] = refuse
    with pytest.raises(PeerError, match="no session") as info:
        async with execute(channel, REQUEST) as events:
            await collect_execution(REQUEST, events)
    assert info.value.code is ErrorCode.GUEST_NOT_READY


# -- files --------------------------------------------------------------------------------------


async def _source(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_file_is_put_with_its_size_and_mode(guest: FakeGuest, channel: GuestChannel) -> None:
    content: list[Any] = []

    async def take(stream: FakeStream) -> None:
        content.append((stream.params, await stream.read_all()))
        await stream.send_message({"type": "done", "size": len(content[0][1])})
        stream.close()

    guest.services["files"] = take
    chunks = [b"x" * 400_000, b"", b"tail"]
    await put_file(channel, "a/b", _source(*chunks), size_bytes=400_004, mode=0o600, deadline_s=10)
    members = {"service": "files", "op": "put", "path": "a/b", "size": 400_004, "mode": 0o600}
    assert content == [(members, b"".join(chunks))]


async def test_refusal_comes_through_while_the_guest_takes_nothing(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    guest.services["files"] = answers({"type": "failed", "code": "no_space", "message": "full"})
    with pytest.raises(TransientError, match="full") as info:
        await put_file(
            channel, "a", _source(bytes(CREDIT * 2)), size_bytes=CREDIT * 2, deadline_s=10
        )
    assert info.value.code is ErrorCode.DISK_FULL


async def test_source_that_fails_is_the_error_and_resets(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    async def broken_source() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionResetError("the uploader left")

    guest.services["files"] = silent
    with pytest.raises(ConnectionResetError, match="the uploader left"):
        await put_file(channel, "a", broken_source(), size_bytes=9, deadline_s=10)
    while guest.streams:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("size_bytes", [2, 4], ids=["longer", "shorter"])
async def test_content_of_another_size_is_refused(
    guest: FakeGuest, channel: GuestChannel, size_bytes: int
) -> None:
    guest.services["files"] = silent
    with pytest.raises(UsageError, match="another size"):
        await put_file(channel, "a", _source(b"abc"), size_bytes=size_bytes, deadline_s=10)


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_cancelled_put_leaves_the_channel_usable(
    guest: FakeGuest, channel: GuestChannel, turns: int
) -> None:
    guest.services.update(files=silent, signal=answers(DONE))
    putting = asyncio.create_task(
        put_file(channel, "a", _source(bytes(CREDIT * 2)), size_bytes=CREDIT * 2, deadline_s=10)
    )
    for _ in range(turns):
        await asyncio.sleep(0)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await interrupt(channel, deadline_s=10)


def _gives(size: int, content: bytes) -> Service:
    async def give(stream: FakeStream) -> None:
        await stream.send_message({"type": "file", "size": size})
        await stream.send(content)
        stream.close()

    return give


async def test_file_is_got(guest: FakeGuest, channel: GuestChannel) -> None:
    content = bytes(range(256)) * 4000
    guest.services["files"] = _gives(len(content), content)
    async with get_file(channel, "a", deadline_s=10) as download:
        assert download.size_bytes == len(content)
        assert b"".join([chunk async for chunk in download.chunks]) == content


@pytest.mark.parametrize("content", [b"ab", b"abcd", b""], ids=["short", "long", "empty"])
async def test_file_of_another_size_than_announced_is_refused(
    guest: FakeGuest, channel: GuestChannel, content: bytes
) -> None:
    guest.services["files"] = _gives(3, content)
    async with get_file(channel, "a", deadline_s=10) as download:
        with pytest.raises(PeerError, match="announced 3 bytes"):
            _ = [chunk async for chunk in download.chunks]


async def test_missing_file_is_not_found(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.services["files"] = answers({"type": "failed", "code": "not_found", "message": "m"})
    with pytest.raises(UsageError) as info:
        async with get_file(channel, "a", deadline_s=10):
            pass
    assert info.value.code is ErrorCode.FILE_NOT_FOUND


async def test_entries_are_listed_looked_at_and_removed(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    entry = {"path": "/w/a", "kind": "file", "size": 3, "mtime_s": 1.5}

    async def serve(stream: FakeStream) -> None:
        replies = {
            "list": {"type": "entries", "entries": [entry]},
            "stat": {"type": "entry", "entry": entry},
            "remove": DONE,
        }
        await stream.send_message(replies[stream.params["op"]])
        stream.close()

    guest.services["files"] = serve
    expected = Entry(path="/w/a", kind="file", size=3, mtime_s=1.5)
    assert await list_entries(channel, ".", deadline_s=10) == [expected]
    assert await stat(channel, "a", deadline_s=10) == expected
    await remove(channel, "a", deadline_s=10)


# -- http ---------------------------------------------------------------------------------------


async def _client(
    channel: GuestChannel, outcomes: asyncio.Queue[BaseException | None]
) -> tuple[asyncio.Server, str]:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await relay_http(channel, reader, writer)
            outcomes.put_nowait(None)
        except Exception as exc:
            outcomes.put_nowait(exc)
        finally:
            writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    return server, str(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("client_ends_first", [True, False])
async def test_relay_carries_http_both_ways(
    guest: FakeGuest, channel: GuestChannel, client_ends_first: bool
) -> None:
    async def serve(stream: FakeStream) -> None:
        request = await (stream.read_all() if client_ends_first else stream.read())
        await stream.send(b"reply to " + request + bytes(500_000))
        stream.close()

    guest.services["http"] = serve
    outcomes: asyncio.Queue[BaseException | None] = asyncio.Queue()
    server, port = await _client(channel, outcomes)
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"GET")
        if client_ends_first:
            writer.write_eof()
        assert await reader.read() == b"reply to GET" + bytes(500_000)
        writer.close()
        await writer.wait_closed()
    assert await outcomes.get() is None


async def test_relay_ends_with_its_guest(guest: FakeGuest, channel: GuestChannel) -> None:
    async def die(stream: FakeStream) -> None:
        await stream.read()
        guest.hang_up()

    guest.services["http"] = die
    outcomes: asyncio.Queue[BaseException | None] = asyncio.Queue()
    server, port = await _client(channel, outcomes)
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"GET")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert isinstance(await outcomes.get(), PeerError)
