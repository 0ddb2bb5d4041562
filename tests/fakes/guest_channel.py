"""A guest on a Unix socket, speaking docs/guest-protocol.md section 2 by its own means.

It stands for the VMM's socket together with the guest behind it: bytes of consecutive connections
are one stream, as on a virtio-serial port. Services are coroutines that are given their stream;
faults are attributes, or bytes written raw.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

MARKER = bytes.fromhex("f5534e4150f75354415254fb4d5831ff")
HELLO, HELLO_ACK, OPEN, DATA, CLOSE, RESET, WINDOW = range(1, 8)
CREDIT = 262144


def frame(kind: int, stream: int = 0, payload: bytes = b"", *, magic: bytes = b"SF") -> bytes:
    """One frame, valid or not."""
    return magic + struct.pack(">BBII", kind, 0, stream, len(payload)) + payload


def message(body: Mapping[str, Any]) -> bytes:
    """A length-prefixed message."""
    encoded = json.dumps(body).encode()
    return struct.pack(">I", len(encoded)) + encoded


class FakeStream:
    """The guest's end of a stream."""

    def __init__(self, guest: FakeGuest, ident: int, params: dict[str, Any]) -> None:
        self.guest = guest
        self.ident = ident
        self.params = params
        self.credit = CREDIT
        self.was_reset = asyncio.Event()
        self.got_eof = asyncio.Event()
        self._inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._credited = asyncio.Event()
        self._rest = bytearray()

    async def read(self) -> bytes:
        """The next bytes, empty at the end; credit goes back unless the guest is mean."""
        data = await self._inbox.get()
        if data and self.guest.returns_credit:
            self.guest.write(frame(WINDOW, self.ident, struct.pack(">I", len(data))))
        return data

    async def read_all(self) -> bytes:
        """Everything up to the end."""
        received = bytearray()
        while data := await self.read():
            received += data
        return bytes(received)

    async def read_message(self) -> dict[str, Any]:
        """One message."""
        while len(self._rest) < 4 or len(self._rest) < 4 + int.from_bytes(self._rest[:4], "big"):
            data = await self.read()
            assert data, "the stream ended within a message"
            self._rest += data
        end = 4 + int.from_bytes(self._rest[:4], "big")
        body: dict[str, Any] = json.loads(self._rest[4:end])
        del self._rest[:end]
        return body

    async def send(self, data: bytes) -> None:
        """Send, as credit allows."""
        while data:
            while not self.credit:
                self._credited.clear()
                await self._credited.wait()
            size = min(len(data), self.credit, 65536)
            at = data.find(MARKER, 0, size)
            size = at + 8 if at >= 0 else size
            self.credit -= size
            self.guest.write(frame(DATA, self.ident, data[:size]))
            await self.guest.drain()
            data = data[size:]

    async def send_message(self, body: Mapping[str, Any]) -> None:
        """Send one message."""
        await self.send(message(body))

    def close(self) -> None:
        """Half-close."""
        self.guest.write(frame(CLOSE, self.ident))

    def reset(self, code: str, text: str = "") -> None:
        """End both directions."""
        body = json.dumps({"code": code, "message": text}).encode()
        self.guest.write(frame(RESET, self.ident, body))

    def on_data(self, data: bytes) -> None:
        """Bytes came; nothing but an end is ever empty."""
        self._inbox.put_nowait(data)

    def on_close(self) -> None:
        """The host half-closed."""
        self.got_eof.set()
        self._inbox.put_nowait(b"")

    def on_credit(self, size: int) -> None:
        """The host takes more."""
        self.credit += size
        assert self.credit <= CREDIT, "the host returned credit it never received"
        self._credited.set()


Service = Callable[[FakeStream], Awaitable[None]]


class FakeGuest:
    """Listens on `path`; use in `async with`.

    Attributes: acks: answer HELLO. noise: bytes before the answer. returns_credit: give credit
    back. reads: cleared, the guest takes nothing from its socket. epochs: seen so far.
    """

    def __init__(self, path: Path, services: Mapping[str, Service] | None = None) -> None:
        self.path = path
        self.services = dict(services or {})
        self.acks = True
        self.noise = b""
        self.returns_credit = True
        self.reads = asyncio.Event()
        self.reads.set()
        self.epochs: list[bytes] = []
        self.streams: dict[int, FakeStream] = {}
        self.opened: list[str] = []
        self.synchronised = asyncio.Event()
        self.errors: list[BaseException] = []
        self._buffer = bytearray()
        self._is_synced = False
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FakeGuest:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()
        self.reads.set()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors[0]

    # -- what a test does to the host -----------------------------------------------------

    def write(self, data: bytes) -> None:
        """Raw bytes to the host, lost when none is connected."""
        if self._writer is not None and not self._writer.transport.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the host's socket takes more."""
        if self._writer is not None:
            try:
                await self._writer.drain()
            except ConnectionError:
                await asyncio.Event().wait()

    def hang_up(self) -> None:
        """End the present connection."""
        if self._writer is not None:
            self._writer.transport.abort()

    # -- the protocol ---------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writer = writer
        try:
            while True:
                await self.reads.wait()
                data = await reader.read(65536)
                if not data:
                    break
                self._feed(data)
        except (ConnectionError, asyncio.CancelledError):
            pass
        except Exception as exc:
            self.errors.append(exc)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    def _feed(self, data: bytes) -> None:
        self._buffer += data
        at = self._buffer.rfind(MARKER)
        if at >= 0:
            del self._buffer[: at + len(MARKER)]
            self.streams.clear()
            self._is_synced = True
        while self._is_synced and len(self._buffer) >= 12:
            magic, kind, flags, stream, size = struct.unpack_from(">2sBBII", self._buffer)
            assert (magic, flags) == (b"SF", 0), f"the host sent {bytes(self._buffer[:12])!r}"
            assert size <= 65536
            if len(self._buffer) < 12 + size:
                break
            payload = bytes(self._buffer[12 : 12 + size])
            del self._buffer[: 12 + size]
            self._frame(kind, stream, payload)

    def _frame(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == HELLO:
            self.epochs.append(payload)
            if self.acks:
                self.write(self.noise + MARKER + frame(HELLO_ACK, 0, payload))
            self.synchronised.set()
        elif kind == OPEN:
            self._open(stream, json.loads(payload))
        elif stream in self.streams:
            self._stream_frame(kind, self.streams[stream], payload)

    def _stream_frame(self, kind: int, stream: FakeStream, payload: bytes) -> None:
        if kind == DATA:
            assert payload, "the host sent an empty DATA frame"
            stream.on_data(payload)
        elif kind == CLOSE:
            stream.on_close()
        elif kind == WINDOW:
            stream.on_credit(struct.unpack(">I", payload)[0])
        elif kind == RESET:
            self.streams.pop(stream.ident)
            stream.was_reset.set()

    def _open(self, ident: int, params: dict[str, Any]) -> None:
        stream = self.streams[ident] = FakeStream(self, ident, params)
        self.opened.append(params["service"])
        service = self.services.get(params["service"])
        if service is None:
            stream.reset("unknown_service", "there is none")
            return
        task = asyncio.get_running_loop().create_task(self._run(service, stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, service: Service, stream: FakeStream) -> None:
        try:
            await service(stream)
        except Exception as exc:
            self.errors.append(exc)
