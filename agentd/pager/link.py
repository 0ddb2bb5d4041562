"""Exchange one line of JSON for another with the page server."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Final

from agentd.units import MIB

_REPLY_MAX_BYTES: Final = 16 * MIB
_SOCKET_PATH_BYTES: Final = 107  # unix(7); libuv would cut a longer one and connect to another
# Nobody listens (yet, or any more), or the backlog is full: somebody may, in a moment.
_COMES_BACK: Final = (
    FileNotFoundError,
    ConnectionRefusedError,
    ConnectionResetError,
    BrokenPipeError,
    BlockingIOError,
)


class LinkLostError(Exception):
    """No answer came, and the next connection may bring one.

    was_sent: the request may have been read, and carried out.
    """

    def __init__(self, why: str, *, was_sent: bool) -> None:
        super().__init__(why)
        self.was_sent = was_sent


class AnswerTooLongError(Exception):
    """What came back has no end."""


async def exchange(path: Path, request: bytes) -> bytes:
    """Send a line over a connection of its own, return the line that comes back.

    Raises: LinkLostError; AnswerTooLongError; OSError if nobody can ever be reached there.
    Cancellation: closes the connection; the page server goes on with what it read.
    """
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"more than {_SOCKET_PATH_BYTES} bytes", str(path))
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=_REPLY_MAX_BYTES)
    except _COMES_BACK as exc:
        raise LinkLostError(f"{exc.strerror}", was_sent=False) from exc
    try:
        writer.write(request + b"\n")
        await writer.drain()
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as exc:
        raise LinkLostError("it hung up without an answer", was_sent=True) from exc
    except asyncio.LimitOverrunError as exc:
        raise AnswerTooLongError(f"more than {_REPLY_MAX_BYTES} bytes") from exc
    except OSError as exc:
        raise LinkLostError(f"{exc.strerror}", was_sent=True) from exc
    finally:
        writer.transport.abort()
