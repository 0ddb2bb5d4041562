"""Say anything to an admin socket, and hear what comes back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

ANSWER_S = 20.0


async def exchange(path: Path, sent: bytes, *, ends: bool = False) -> bytes:
    """All that comes back until it is closed. ends: that nothing more is sent is said as well."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        async with asyncio.timeout(ANSWER_S):
            writer.write(sent)
            await writer.drain()
            if ends:
                writer.write_eof()
            return await reader.read()
    except ConnectionError:
        return b""  # closed with something left unread
    finally:
        writer.transport.abort()


async def ask(path: Path, **request: Any) -> dict[str, Any]:
    """The reply to one request, which has to be one line."""
    reply = await exchange(path, json.dumps(request).encode() + b"\n")
    assert reply.endswith(b"\n")
    assert reply.count(b"\n") == 1
    found = json.loads(reply)
    assert isinstance(found, dict)
    return found


async def refusal(path: Path, **request: Any) -> str:
    """The words of the refusal of one request."""
    reply = await ask(path, **request)
    assert set(reply) == {"ok", "error"}
    assert reply["ok"] is False
    return str(reply["error"])
