"""Splice a connection to a guest's HTTP interface (docs/guest-protocol.md, section 4.5)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from agentd.units import KIB
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.services import HTTP
from agentd.warmfork.stream import Stream

_READ_BYTES: Final = 64 * KIB


async def relay_http(
    channel: GuestChannel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Carry bytes both ways until the guest has ended its direction, or either has failed.

    A half-close is carried on as one. The connection stays the caller's, who closes it.
    Raises: the stream's failure; OSError of the connection. Cancellation: resets the stream.
    """
    async with await channel.open(HTTP) as stream:
        to_guest = asyncio.create_task(_to_guest(reader, stream), name=f"http-in-{stream.ident}")
        to_client = asyncio.create_task(_to_client(stream, writer), name=f"http-out-{stream.ident}")
        tasks = (to_guest, to_client)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not to_client.done() and to_guest.exception() is None:
                await asyncio.wait((to_client,))
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


async def _to_guest(reader: asyncio.StreamReader, stream: Stream) -> None:
    while data := await reader.read(_READ_BYTES):
        await stream.write(data)
    stream.write_eof()


async def _to_client(stream: Stream, writer: asyncio.StreamWriter) -> None:
    while data := await stream.read():
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()
