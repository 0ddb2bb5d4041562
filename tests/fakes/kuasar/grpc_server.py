"""A gRPC server on a Unix socket whose calls can be made to fail in every way.

grpc's own server cannot lose a connection on demand, so it listens on a loopback port behind a
relay that knows, by the caller's port, which connection a call came over.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from agentd.kuasar.grpc_socket import hold_grpc

from .faults import Abort, Delay, Faults
from .listener import listening
from .sandboxer import RefusedError

_CHUNK_BYTES = 1 << 16
_Context = grpc.aio.ServicerContext[bytes, bytes]


async def _hold_grpc() -> None:
    hold_grpc()


# What it keeps open for the whole process is no leak of the first test.
with asyncio.Runner(loop_factory=asyncio.new_event_loop) as _runner:
    _runner.run(_hold_grpc())


class StatusError(Exception):
    """A refusal with a code of gRPC's."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Method:
    """How one is answered. answer: raises RefusedError, which is INTERNAL, or StatusError."""

    request: type[Message]
    answer: Callable[[Any], Awaitable[Message]]


class GrpcServer:
    """Serves `methods`. calls: how often each was asked for, by its last name."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self._relay = _Relay()

    def methods(self) -> Mapping[str, Method]:
        """By full name, such as `/package.Service/Method`."""
        raise NotImplementedError

    @asynccontextmanager
    async def serving(self, path: Path) -> AsyncIterator[None]:
        """Unlink what is there and bind; the socket's file stays. (R)

        Every connection is broken off when this ends, and with it what its calls do.
        """
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_Router(self),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with self._relay.serving(path, port):
                yield
        finally:
            await server.stop(None)

    async def answer(self, name: str, data: bytes, context: _Context) -> None:
        """One call, with what is to go wrong with it."""
        fault = self.faults.next()
        if fault == "lose":
            await self._lose(context)
        if isinstance(fault, Abort):
            await context.abort(grpc.StatusCode[fault.status], fault.text)
        reply = await self._reply(name, data, context)
        if isinstance(fault, Delay):
            await asyncio.sleep(fault.seconds)
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "drop":
            await self._lose(context)
        if fault == "truncate":
            reply = reply[: len(reply) // 2]
        await context.write(fault if isinstance(fault, bytes) else reply)
        if fault == "twice":
            await context.write(reply)

    async def _lose(self, context: _Context) -> None:
        self._relay.lose(context.peer())
        await asyncio.Event().wait()  # until the server notices

    async def _reply(self, name: str, data: bytes, context: _Context) -> bytes:
        method = self.methods()[name]
        self.calls[name.rpartition("/")[2]] += 1
        try:
            reply = await method.answer(method.request.FromString(data))
        except StatusError as exc:
            await context.abort(grpc.StatusCode[exc.status], str(exc))
        except (RefusedError, DecodeError) as exc:
            await context.abort(grpc.StatusCode.INTERNAL, str(exc))
        return reply.SerializeToString()


class _Router(grpc.GenericRpcHandler):
    """Every method as one that streams its reply: alike on the wire, and it may go wrong."""

    def __init__(self, server: GrpcServer) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """None: unknown, which is UNIMPLEMENTED."""
        name = details.method
        if name not in self._server.methods():
            return None

        async def handle(data: bytes, context: _Context) -> None:
            await self._server.answer(name, data, context)

        return grpc.unary_stream_rpc_method_handler(handle)


class _Relay:
    """Passes on bytes between a Unix socket and a port."""

    def __init__(self) -> None:
        self._clients: dict[str, asyncio.StreamWriter] = {}
        self._port = 0

    @asynccontextmanager
    async def serving(self, path: Path, port: int) -> AsyncIterator[None]:
        self._port = port
        async with listening(path, self._serve):
            yield

    def lose(self, peer: str) -> None:
        """End the connection of a caller as grpc names it."""
        self._clients[peer].transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        peer = f"ipv4:127.0.0.1:{back.get_extra_info('sockname')[1]}"
        self._clients[peer] = writer
        ways = [_pass_on(reader, back), _pass_on(there, writer)]
        tasks = [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._clients[peer]
            back.transport.abort()
            writer.transport.abort()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
