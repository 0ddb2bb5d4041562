"""Carry connections to a Pod's address to the HTTP interface of its guest."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from agentd.engine.session import Machine
from agentd.engine.trace import Tracer
from agentd.errors import ErrorCode, SnapStartError, TransientError
from agentd.warmfork.relay import relay_http

_BACKLOG: Final = 128
_LEFT_OPEN_MAX: Final = 256

# Lends the machine for one connection.
Use = Callable[[], AbstractAsyncContextManager[Machine]]


class Forwarder:
    """Listens for one Pod; `close` ends it with its connections.

    A connection that comes while the guest cannot serve is closed: what Ready says is in the Pod's
    status, not in an accepted connection.
    """

    def __init__(self, address: str, ports: tuple[int, ...], use: Use, tracer: Tracer) -> None:
        self.address = address
        self.ports = ports
        self._use = use
        self._tracer = tracer
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen on every port. Raises: TransientError if one cannot be had.

        Cancellation: listens nowhere.
        """
        try:
            for port in self.ports:
                await self._listen(port)
        except BaseException:
            await self.close()
            raise

    async def _listen(self, port: int) -> None:
        # Two steps: a server that serves before it is returned is lost by a cancellation.
        try:
            server = await asyncio.start_server(
                self._serve, self.address, port, backlog=_BACKLOG, start_serving=False
            )
            self._servers.append(server)
            await server.start_serving()
        except OSError as exc:
            why = "somebody listens there" if exc.errno == errno.EADDRINUSE else str(exc)
            raise TransientError(
                ErrorCode.NODE_FULL,
                f"listening on {self.address} port {port} for a Pod: {why}",
                hint="choose another node.pod_cidr if it is somebody else's",
                delay_s=5.0,
            ) from exc

    async def close(self) -> None:
        """Stop listening, cut what is open. Idempotent."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= _LEFT_OPEN_MAX:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            async with self._use() as machine:
                await relay_http(machine.channel, reader, writer)
        except (SnapStartError, OSError) as exc:
            self._tracer.step("forward.failed", address=self.address, error=str(exc))
        except asyncio.CancelledError:
            # Cancelled by `close` alone; asyncio's stream server takes it for an error.
            return
        finally:
            self._connections.discard(task)
            with contextlib.suppress(OSError):
                writer.close()
