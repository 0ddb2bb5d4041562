"""Accept connections, and own them from the first byte on."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Final

import structlog

from agentd.errors import ConfigError, ErrorCode, SnapStartError, TransientError
from agentd.proxy.connection import Connection
from agentd.proxy.limits import CONNECTIONS_MAX

_BACKLOG: Final = 64
_PAUSE_S: Final = 1.0
_GONE: Final = frozenset({errno.ECONNABORTED, errno.EINTR})


def open_listener(address: str, port: int) -> socket.socket:
    """A socket that listens, which the caller closes. port: 0 takes a free one.

    Raises: ConfigError: the address is none of this network namespace, or not allowed;
    TransientError: somebody else listens there, or there is no room.
    """
    version = ipaddress.ip_address(address).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        raise _cannot_listen(address, port, exc) from exc
    return listener


def _cannot_listen(address: str, port: int, exc: OSError) -> SnapStartError:
    what = f"listening on {address} port {port} for the admin proxy: {exc.strerror}"
    if exc.errno in (errno.EADDRNOTAVAIL, errno.EACCES):
        hint = "$POD_IP has to be of agentd's own Pod, proxy.port above 1023"
        return ConfigError(ErrorCode.CONFIG_INVALID, what, hint=hint)
    hint = "stop what listens there, or choose another proxy.port"
    return TransientError(ErrorCode.NODE_FULL, what, hint=hint, delay_s=5.0)


class Acceptor:
    """Lets callers in while there is room; the others wait in the kernel's queue.

    Room counts from the first byte of a TLS handshake on. Args: listener: closed by `close`.
    make: for each connection. tls: None: plain HTTP.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], Connection],
        tls: Callable[[], ssl.SSLContext] | None,
        handshake_s: float,
    ) -> None:
        self._listener = listener
        self._make = make
        self._tls = tls
        self._handshake_s = handshake_s
        self._loop = asyncio.get_running_loop()
        self._open: dict[asyncio.Task[None], socket.socket] = {}
        self._is_closed = False
        self._resume()

    async def close(self) -> None:
        """Let nobody in, cut everybody off. Idempotent."""
        self._is_closed = True
        self._pause()
        self._listener.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    def _resume(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _pause(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        """Without an await between accept(2) and the task that owns what came of it."""
        while len(self._open) < CONNECTIONS_MAX:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _GONE:
                    continue
                self._wait_for_room(exc)
                return
            task = self._loop.create_task(self._serve(sock), name="proxy-connection")
            self._open[task] = sock
            task.add_done_callback(self._on_end)
        self._pause()

    def _wait_for_room(self, exc: OSError) -> None:
        """No descriptor is left, say: the listener stays readable, and would be asked for ever."""
        structlog.get_logger().warning("proxy.accept.failed", error=str(exc), retry_s=_PAUSE_S)
        self._pause()
        self._loop.call_later(_PAUSE_S, self._resume)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """Here, as a task that is cancelled before its first step does not close anything."""
        self._open.pop(task).close()
        if not task.cancelled() and (exc := task.exception()) is not None:
            structlog.get_logger().warning("proxy.connection.failed", error=type(exc).__name__)
        self._resume()

    async def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        context = self._tls() if self._tls else None
        limit_s = self._handshake_s if context else None
        # Not the one that the call returns: of uvloop that is its own, with TLS.
        connection = self._make()
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: connection, sock, ssl=context, ssl_handshake_timeout=limit_s
            )
        except OSError as exc:  # as is a failed handshake, or one that took too long
            structlog.get_logger().debug("proxy.handshake.failed", error=type(exc).__name__)
            return
        try:
            await connection.closed
        finally:
            transport.abort()
