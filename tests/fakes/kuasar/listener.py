"""A Unix socket whose connections all end when nobody serves it any more."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_LIMIT_BYTES = 16 << 20


@asynccontextmanager
async def listening(path: Path, serve: Serve, *, mode: int | None = None) -> AsyncIterator[None]:
    """Unlink what is there and bind; the socket's file stays when this ends."""
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def forget(task: asyncio.Task[None]) -> None:
        connections.pop(task).close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_served(serve, reader, writer))
        connections[task] = writer
        task.add_done_callback(forget)

    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server = await asyncio.start_unix_server(accept, path, limit=_LIMIT_BYTES)
    if mode is not None:
        os.chmod(path, mode)
    try:
        yield
    finally:
        # asyncio loses a connection that it accepts in the turn in which its server is closed.
        await _some_turns()
        server.close()
        await _some_turns()
        tasks = list(connections)
        for task, writer in connections.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _served(serve: Serve, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await serve(reader, writer)


async def _some_turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
