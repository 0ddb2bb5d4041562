"""The channel against a guest that behaves, one that does not, and one that dies."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, InvariantError, PeerError, SnapStartError, UsageError
from agentd.warmfork import GuestChannel, Stream
from tests.fakes.guest_channel import (
    CREDIT,
    DATA,
    HELLO_ACK,
    MARKER,
    OPEN,
    FakeGuest,
    FakeStream,
    frame,
)


async def echo(stream: FakeStream) -> None:
    while data := await stream.read():
        await stream.send(data)
    stream.close()


async def silent(stream: FakeStream) -> None:
    await asyncio.Event().wait()


async def _echoes(channel: GuestChannel, data: bytes = b"hello") -> bytes:
    async def send() -> None:
        await stream.write(data)
        stream.write_eof()

    async with await channel.open("echo") as stream, asyncio.TaskGroup() as group:
        group.create_task(send())
        received = bytearray()
        while chunk := await stream.read():
            received += chunk
    return bytes(received)


# -- connecting ---------------------------------------------------------------------------------


async def test_stream_carries_bytes_both_ways(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.services["echo"] = echo
    data = b"a" * 70_000 + MARKER + b"b" * 300_000
    assert await _echoes(channel, data) == data
    assert dict(channel.opened) == {"echo": 1}


async def test_connect_waits_until_something_listens(path: Path) -> None:
    connecting = asyncio.create_task(GuestChannel.connect(path, deadline_s=20))
    await asyncio.sleep(0.02)
    async with FakeGuest(path, {"echo": echo}), await connecting as channel:
        assert await _echoes(channel) == b"hello"


async def test_connect_tries_again_after_a_hang_up(guest: FakeGuest) -> None:
    guest.acks = False
    connecting = asyncio.create_task(GuestChannel.connect(guest.path, deadline_s=20))
    await guest.synchronised.wait()
    guest.acks = True
    guest.hang_up()
    async with await connecting:
        assert len(set(guest.epochs)) == 2


async def test_foreign_bytes_before_the_answer_are_discarded(guest: FakeGuest) -> None:
    old = MARKER + frame(HELLO_ACK, 0, b"an-older-epoch..") + frame(DATA, 1, b"not yours")
    guest.noise = b"\0junk" + old + old[:20] + frame(DATA, 3, b"x" * 60_000)[:30_000]
    guest.services["echo"] = echo
    async with await GuestChannel.connect(guest.path, deadline_s=20) as channel:
        assert await _echoes(channel) == b"hello"


@pytest.mark.parametrize("noise", [b"", b"x" * 100_000], ids=["silence", "noise"])
async def test_guest_that_never_answers_is_not_ready(guest: FakeGuest, noise: bytes) -> None:
    guest.acks = False
    connecting = asyncio.create_task(GuestChannel.connect(guest.path, deadline_s=0.2))
    await guest.synchronised.wait()
    guest.write(noise + MARKER + frame(HELLO_ACK, 0, b"some other epoch"))
    with pytest.raises(PeerError, match=r"no answer in 0\.2 s") as info:
        await connecting
    assert info.value.code is ErrorCode.GUEST_NOT_READY


async def test_nothing_listening_is_said_at_the_deadline(path: Path) -> None:
    with pytest.raises(PeerError, match="No such file") as info:
        await GuestChannel.connect(path, deadline_s=0.05)
    assert info.value.code is ErrorCode.GUEST_NOT_READY


async def test_path_that_cannot_be_a_socket_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvariantError, match="over 107 bytes"):
        await GuestChannel.connect(tmp_path / ("x" * 200), deadline_s=20)


async def test_cancelled_connect_leaves_no_socket(guest: FakeGuest) -> None:
    guest.acks = False
    connecting = asyncio.create_task(GuestChannel.connect(guest.path, deadline_s=20))
    await guest.synchronised.wait()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting


async def test_reconnect_while_a_frame_is_half_written(guest: FakeGuest) -> None:
    guest.services["echo"] = echo
    reader, writer = await asyncio.open_unix_connection(guest.path)
    writer.write(MARKER + frame(1, 0, bytes(16)) + frame(OPEN, 1, b'{"service":"echo"}'))
    writer.write(frame(DATA, 1, b"x" * 1000)[:500])
    await reader.readexactly(len(MARKER) + 28)
    writer.transport.abort()
    async with await GuestChannel.connect(guest.path, deadline_s=20) as channel:
        assert await _echoes(channel) == b"hello"


# -- taking over --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Handed:
    sock: socket.socket
    leftover: bytes
    next_stream: int


async def test_a_socket_that_the_event_loop_closed_at_once_costs_nobody_a_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """uvloop closes the descriptor of a connection that is reset, and tells the object nothing."""
    connect = asyncio.open_unix_connection
    theirs, elsewhere = socket.socketpair()

    async def connect_and_lose(*, sock: socket.socket, limit: int) -> object:
        os.dup2(stranger.fileno(), sock.fileno(), inheritable=False)
        return await connect(sock=elsewhere, limit=limit)

    with socket.socket() as stranger, theirs:
        handed = Handed(socket.socket(socket.AF_UNIX), b"", 3)
        number = handed.sock.fileno()
        monkeypatch.setattr(asyncio, "open_unix_connection", connect_and_lose)
        async with await GuestChannel.over(handed, name="vm1"):
            assert handed.sock.fileno() == -1
        assert os.fstat(number).st_ino == os.fstat(stranger.fileno()).st_ino
        os.close(number)


async def test_taken_over_socket_goes_on_with_what_was_left_over(guest: FakeGuest) -> None:
    guest.services.update(echo=echo, inject=silent)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(guest.path))
    sock.sendall(MARKER + frame(1, 0, bytes(16)) + frame(OPEN, 1, b'{"service":"inject"}'))
    await guest.synchronised.wait()
    sock.setblocking(True)
    sock.recv(44)
    handed = Handed(sock, frame(DATA, 1, b"late")[:7], 3)
    guest.write(frame(DATA, 1, b"late")[7:])
    async with await GuestChannel.over(handed, name="vm1") as channel:
        assert dict(channel.opened) == {"inject": 1}
        assert await _echoes(channel) == b"hello"
        assert guest.opened == ["inject", "echo"]


async def test_broken_leftover_closes_the_socket() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with pytest.raises(PeerError, match="vm1: the guest broke the protocol"):
            await GuestChannel.over(Handed(ours, b"garbage-garbage", 3), name="vm1")
        theirs.settimeout(10)
        assert await asyncio.to_thread(theirs.recv, 1) == b""


# -- a guest that breaks the rules --------------------------------------------------------------

FAULTS: dict[str, tuple[bytes, str]] = {
    "garbage": (b"this is no frame at all", "frame header"),
    "stream never opened": (frame(DATA, 99, b"x"), "never opened"),
    "new epoch": (MARKER, "new epoch"),
    "flood": (frame(DATA, 1, bytes(65536)) * 5, "exceeds the credit"),
}


@pytest.mark.parametrize(("wire", "problem"), FAULTS.values(), ids=FAULTS)
async def test_broken_protocol_fails_every_stream_alike(
    guest: FakeGuest, channel: GuestChannel, wire: bytes, problem: str
) -> None:
    guest.services["silent"] = silent
    streams = [await channel.open("silent") for _ in range(3)]
    waiting = [asyncio.create_task(stream.read()) for stream in streams[1:]]
    writing = asyncio.create_task(streams[0].write(bytes(CREDIT + 1)))
    await asyncio.sleep(0.01)
    guest.write(wire)
    reason = await channel.closed
    assert (type(reason), reason.code) == (PeerError, ErrorCode.GUEST_PROTOCOL)
    assert problem in str(reason)
    outcomes = await asyncio.gather(*waiting, writing, return_exceptions=True)
    assert all(outcome is reason for outcome in outcomes)
    with pytest.raises(PeerError, match=problem):
        await channel.open("silent")


async def test_flood_to_an_ended_stream_is_noticed(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.services["silent"] = silent
    async with await channel.open("silent"):
        pass
    guest.write(frame(DATA, 1, bytes(65536)) * 5)
    assert "flood" in str(await channel.closed)


async def test_message_over_the_limit_is_refused_at_its_length(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    async def oversize(stream: FakeStream) -> None:
        await stream.send((5 << 20).to_bytes(4, "big"))

    guest.services.update(oversize=oversize, echo=echo)
    async with await channel.open("oversize") as stream:
        with pytest.raises(PeerError, match="announced a message of 5242880 bytes"):
            await stream.read_message()
    assert await _echoes(channel) == b"hello"


async def test_message_that_is_cut_off_is_refused(guest: FakeGuest, channel: GuestChannel) -> None:
    async def half(stream: FakeStream) -> None:
        await stream.send((100).to_bytes(4, "big") + b"{")
        stream.close()

    guest.services["half"] = half
    async with await channel.open("half") as stream:
        with pytest.raises(PeerError, match="ended within a message"):
            await stream.read_message()


async def test_reset_of_the_guest_reaches_reader_and_writer(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    async def refuse(stream: FakeStream) -> None:
        await stream.send(b"first")
        stream.reset("gate_closed", "no session")

    guest.services["refuse"] = refuse
    async with await channel.open("refuse") as stream:
        assert await stream.read() == b"first"
        with pytest.raises(PeerError, match="no session") as info:
            await stream.read()
        assert info.value.code is ErrorCode.GUEST_NOT_READY
        with pytest.raises(PeerError, match="no session"):
            await stream.write(b"x")
    with pytest.raises(PeerError, match="unknown_service"):
        await (await channel.open("nonsense")).read()


# -- a guest that dies, or is slow --------------------------------------------------------------


@pytest.mark.parametrize("half", [b"", frame(DATA, 1, b"0123456789")[:15]], ids=["clean", "half"])
async def test_dead_peer_ends_the_channel(
    guest: FakeGuest, channel: GuestChannel, half: bytes
) -> None:
    guest.services["silent"] = silent
    stream = await channel.open("silent")
    reading = asyncio.create_task(stream.read())
    guest.write(frame(DATA, 1, b"arrived"))
    assert await reading == b"arrived"
    guest.write(half)
    await guest.drain()
    await asyncio.sleep(0.01)
    guest.hang_up()
    reason = await channel.closed
    assert (type(reason), reason.code) == (PeerError, ErrorCode.VMM_FAILED)
    with pytest.raises(PeerError, match="was lost"):
        await stream.read()
    with pytest.raises(PeerError, match="was lost"):
        await stream.write(b"x")


async def test_whole_stream_can_still_be_read_after_the_peer_died(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    is_written = asyncio.Event()

    async def answer(stream: FakeStream) -> None:
        await stream.send_message({"a": 1})
        stream.close()
        await guest.drain()
        is_written.set()

    guest.services["answer"] = answer
    async with await channel.open("answer") as stream:
        await is_written.wait()
        guest.hang_up()
        await channel.closed
        assert json.loads(await stream.read_message() or b"") == {"a": 1}
        assert await stream.read_message() is None


async def test_slow_peer_stops_the_writer_and_nobody_else(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    guest.services.update(silent=silent, echo=echo)
    stuck = await channel.open("silent")
    writing = asyncio.create_task(stuck.write(bytes(CREDIT * 2)))
    assert await _echoes(channel, b"y" * CREDIT * 3) == b"y" * CREDIT * 3
    assert not writing.done()
    stuck.reset()
    with pytest.raises(UsageError, match="reset by this side"):
        await writing


async def test_guest_that_never_reads_leaves_us_bounded(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    guest.services["silent"] = silent
    guest.reads.clear()
    writing: list[asyncio.Task[None]] = []

    async def open_without_end() -> None:
        while True:
            stream = await channel.open("silent")
            writing.append(asyncio.create_task(stream.write(bytes(CREDIT))))

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(open_without_end(), 0.3)
    assert len(writing) <= 64
    guest.reads.set()
    await asyncio.gather(*writing)


async def test_64_streams_at_once_and_more_wait(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.services["echo"] = echo
    data = [bytes([number]) * 20_000 for number in range(200)]
    echoed = await asyncio.gather(*(_echoes(channel, one) for one in data))
    assert echoed == data
    assert channel.opened["echo"] == 200


async def test_65th_stream_waits_for_a_free_place(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.services["silent"] = silent
    streams = [await channel.open("silent") for _ in range(64)]
    waiting = asyncio.create_task(channel.open("silent"))
    cancelled = asyncio.create_task(channel.open("silent"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    cancelled.cancel()
    streams[5].reset()
    assert (await waiting).service == "silent"
    assert channel.opened["silent"] == 65


async def test_100_mb_pass_in_bounded_memory(guest: FakeGuest, channel: GuestChannel) -> None:
    total, block = 100_000_000, b"z" * 1_000_000

    async def sink(stream: FakeStream) -> None:
        size = 0
        while data := await stream.read():
            size += len(data)
        await stream.send(str(size).encode())
        for _ in range(total // len(block)):
            await stream.send(block)
        stream.close()

    guest.services["sink"] = sink
    async with await channel.open("sink") as stream:
        tracemalloc.start()
        try:
            for _ in range(total // len(block)):
                await stream.write(block)
            stream.write_eof()
            assert await stream.read() == b"%d" % total
            size = 0
            while data := await stream.read():
                size += len(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert size == total
    assert peak < 8_000_000


async def test_reader_that_stops_keeps_no_more_than_the_credit(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    sent = 0

    async def pour(stream: FakeStream) -> None:
        nonlocal sent
        while True:
            await stream.send(bytes(65536))
            sent += 65536

    guest.services.update(pour=pour, echo=echo)
    async with await channel.open("pour") as stream:
        assert await stream.read()
        assert await _echoes(channel) == b"hello"
        assert sent <= CREDIT + 65536


# -- cancellation -------------------------------------------------------------------------------


async def _cancel_after(turns: int, work: Awaitable[object]) -> bool:
    """True when the work was still going on after so many turns of the loop."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    return isinstance(outcome, asyncio.CancelledError)


async def _use_messages(stream: Stream) -> None:
    await stream.write(b"\x00\x00\x00\x02{}" * 3)
    for _ in range(3):
        assert await stream.read_message() == b"{}"


async def _use_bulk(stream: Stream) -> None:
    writing = asyncio.create_task(stream.write(bytes(CREDIT * 3)))
    try:
        left = CREDIT * 3
        while left:
            left -= len(await stream.read())
    finally:
        writing.cancel()
        await asyncio.wait((writing,))


@pytest.mark.parametrize("use", [_use_messages, _use_bulk], ids=["messages", "bulk"])
async def test_cancelling_at_any_await_leaves_the_channel_usable(
    guest: FakeGuest, channel: GuestChannel, use: Callable[[Stream], Awaitable[None]]
) -> None:
    guest.services["echo"] = echo

    async def work() -> None:
        async with await channel.open("echo") as stream:
            await use(stream)

    turns = 0
    while await _cancel_after(turns, work()):
        turns += 1
        assert await _echoes(channel, b"after") == b"after"
    assert turns > 2


async def test_cancelled_read_loses_nothing(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.services["echo"] = echo
    async with await channel.open("echo") as stream:
        for half in (b"\x00\x00\x00\x04{", b'"a'):
            await stream.write(half)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(stream.read_message(), 0.02)
        await stream.write(b"}rest")
        assert await stream.read_message() == b'{"a}'
        assert await stream.read() == b"rest"


async def test_stream_left_early_is_reset(guest: FakeGuest, channel: GuestChannel) -> None:
    was_reset = asyncio.Event()

    async def watch(stream: FakeStream) -> None:
        await stream.was_reset.wait()
        was_reset.set()

    guest.services["silent"] = watch
    async with await channel.open("silent") as stream:
        pass
    await was_reset.wait()
    with pytest.raises(UsageError, match="reset by this side"):
        await stream.read()


async def test_waiting_for_the_end_may_be_cancelled(channel: GuestChannel) -> None:
    channel.closed.cancel()
    assert not channel.closed.done()
    await channel.close()
    assert channel.closed.done()


async def test_close_is_idempotent_and_says_so_to_streams(
    guest: FakeGuest, channel: GuestChannel
) -> None:
    guest.services["silent"] = silent
    stream = await channel.open("silent")
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    await channel.close()
    await channel.close()
    with pytest.raises(SnapStartError, match="was closed") as info:
        await reading
    assert info.value.code is ErrorCode.SESSION_ENDED
    assert "closed" in repr(channel)


async def test_cancelled_close_releases_everything(channel: GuestChannel) -> None:
    closing = asyncio.create_task(channel.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    assert channel.closed.done()


async def test_members_too_long_for_a_frame_are_refused(channel: GuestChannel) -> None:
    with pytest.raises(UsageError, match="exceed 65536"):
        await channel.open("files", path="x" * 70_000)
    assert dict(channel.opened) == {}


async def test_writing_after_the_end_is_refused(guest: FakeGuest, channel: GuestChannel) -> None:
    guest.services["silent"] = silent
    async with await channel.open("silent") as stream:
        stream.write_eof()
        stream.write_eof()
        with pytest.raises(UsageError, match="closed for writing"):
            await stream.write(b"x")
        assert "eof-sent" in repr(stream)
