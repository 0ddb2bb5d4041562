"""Move files in and out of a guest (docs/guest-protocol.md, section 4.4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from agentd.errors import ErrorCode, SnapStartError, UsageError
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.services import FILES, ask, broken, read_reply, within
from agentd.warmfork.stream import Stream
from agentd.wire.api import Entry
from agentd.wire.guest import Done, EntryList, EntryReply, FileHeader


async def put_file(
    channel: GuestChannel,
    path: str,
    chunks: AsyncIterable[bytes],
    *,
    size_bytes: int,
    mode: int | None = None,
    deadline_s: float,
) -> None:
    """Write a file; it appears whole or not at all.

    Args: path: absolute or relative to the workspace. size_bytes: what `chunks` add up to.
    Raises: UsageError when the guest refuses the path, or `chunks` are not of that size; what
    `chunks` raises; TransientError(DEADLINE_EXCEEDED); PeerError.
    Cancellation: resets the stream, the guest drops what it had.
    """
    members: dict[str, object] = {"op": "put", "path": path, "size": size_bytes}
    if mode is not None:
        members["mode"] = mode
    what = f"writing file {path!r}"
    async with within(deadline_s, what), await channel.open(FILES, **members) as stream:
        pump = asyncio.create_task(_pump(stream, chunks, size_bytes), name=f"put-{stream.ident}")
        try:
            # The answer may come, and be a refusal, while the guest takes no more bytes.
            done = await read_reply(stream, Done, what)
        except SnapStartError:
            # A source that failed explains why the stream was reset.
            failure = await _stop(pump)
            if failure is not None:
                raise failure from None
            raise
        finally:
            await _stop(pump)
        if done.size != size_bytes:
            raise broken(what, f"the guest wrote {done.size} of {size_bytes} bytes")


async def _pump(stream: Stream, chunks: AsyncIterable[bytes], size_bytes: int) -> None:
    left_bytes = size_bytes
    try:
        async for chunk in chunks:
            left_bytes -= len(chunk)
            if left_bytes < 0:
                break
            await stream.write(chunk)
        if left_bytes:
            message = f"a file of {size_bytes} bytes was announced, the content has another size"
            raise UsageError(ErrorCode.REQUEST_INVALID, message)
        stream.write_eof()
    except BaseException:
        stream.reset()
        raise


async def _stop(task: asyncio.Task[None]) -> BaseException | None:
    """End a task; returns what it had failed with by itself."""
    task.cancel()
    await asyncio.wait((task,))
    return None if task.cancelled() else task.exception()


@dataclass(frozen=True)
class Download:
    """A file on its way. size_bytes: of the whole; chunks: to be iterated once."""

    size_bytes: int
    chunks: AsyncIterator[bytes]


@asynccontextmanager
async def get_file(
    channel: GuestChannel, path: str, *, deadline_s: float
) -> AsyncIterator[Download]:
    """Read a file; `deadline_s` bounds the answer, not the transfer, which the reader paces.

    Raises: UsageError(FILE_NOT_FOUND) and the like; TransientError(DEADLINE_EXCEEDED); PeerError,
    also from the iterator, when the content is not of the announced size.
    Cancellation: resets the stream; so does leaving the block early.
    """
    what = f"reading file {path!r}"
    async with AsyncExitStack() as stack:
        async with within(deadline_s, what):
            opened = await channel.open(FILES, op="get", path=path)
            stream = await stack.enter_async_context(opened)
            stream.write_eof()
            header = await read_reply(stream, FileHeader, what)
        yield Download(header.size, _body(stream, header.size, what))


async def _body(stream: Stream, size_bytes: int, what: str) -> AsyncIterator[bytes]:
    left_bytes = size_bytes
    while chunk := await stream.read():
        left_bytes -= len(chunk)
        if left_bytes < 0:
            break
        yield chunk
    if left_bytes:
        raise broken(what, f"the guest announced {size_bytes} bytes and sent others")


async def list_entries(channel: GuestChannel, path: str, *, deadline_s: float) -> list[Entry]:
    """What a directory holds; raises as `get_file`."""
    reply = await ask(channel, FILES, EntryList, op="list", path=path, deadline_s=deadline_s)
    return reply.entries


async def remove(channel: GuestChannel, path: str, *, deadline_s: float) -> None:
    """Remove a file or a tree; raises as `get_file`."""
    await ask(channel, FILES, Done, op="remove", path=path, deadline_s=deadline_s)


async def stat(channel: GuestChannel, path: str, *, deadline_s: float) -> Entry:
    """Look at one file or directory; raises as `get_file`."""
    reply = await ask(channel, FILES, EntryReply, op="stat", path=path, deadline_s=deadline_s)
    return reply.entry
