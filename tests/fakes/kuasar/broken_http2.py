"""What answers a gRPC call with frames that no sound server sends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .listener import listening

PREFACE_BYTES = 24
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113, section 4.1."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def message(data: bytes, *, is_compressed: bool = False) -> bytes:
    """gRPC's prefix and a message, as a DATA frame of the first stream."""
    prefix = bytes([is_compressed]) + len(data).to_bytes(4, "big")
    return frame(DATA, 0, 1, prefix + data)


# HPACK (RFC 7541): ":status: 200", "content-type: application/grpc".
HEAD = frame(HEADERS, END_HEADERS, 1, b"\x88\x5f\x10application/grpc")
OK = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x0bgrpc-status\x010")


@asynccontextmanager
async def answering(
    path: Path, answer: bytes, *, closes: bool = False
) -> AsyncIterator[list[bytes]]:
    """Serve: whoever has sent the headers of a call gets these bytes, and the end or silence.

    Yields: what was heard: the headers of the first call of each connection.
    """
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await _await_call(reader, writer))
        writer.write(answer)
        await writer.drain()
        if not closes:
            await reader.read(-1)

    async with listening(path, serve):
        yield heard


async def _await_call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(frame(SETTINGS, 0, 0))
    await reader.readexactly(PREFACE_BYTES)
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == SETTINGS and not head[4] & ACK:
            writer.write(frame(SETTINGS, ACK, 0))
        if head[3] == HEADERS:
            return payload
