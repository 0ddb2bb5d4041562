"""Exchange HTTP with the daemon over its Unix socket, blocking."""

from __future__ import annotations

import http.client
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from agentd.client import calls, failures
from agentd.client.calls import Call
from agentd.client.patience import LOOK_EVERY_S, Patience
from agentd.errors import ErrorCode, UsageError

T = TypeVar("T")

_PIECE_BYTES = 256 * 1024
_CONNECT_TIMEOUT_S = 5.0
_MAX_IDLE = 8


class _UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 whose bytes travel over a Unix socket."""

    def __init__(self, socket_path: str) -> None:
        super().__init__("localhost", timeout=_CONNECT_TIMEOUT_S)
        self._socket_path = socket_path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(_CONNECT_TIMEOUT_S)
            sock.connect(self._socket_path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock

    def is_usable(self) -> bool:
        """Whether the daemon has kept an idle connection open; a hang-up makes it readable."""
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        return not poller.poll(0)


class _Budget:
    """What is left of the seconds a caller gave."""

    def __init__(self, timeout_s: float | None) -> None:
        self._end = None if timeout_s is None else time.monotonic() + timeout_s

    def apply(self, sock: socket.socket) -> None:
        """Let the next system call on the socket wait no longer than what is left."""
        left_s = None if self._end is None else self._end - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError
        sock.settimeout(left_s)


class Transport:
    """Sends calls and keeps a few connections open for the next ones; safe to share by threads.

    Args: socket_path: the daemon's socket; None takes SNAPSTART_SOCKET or the packaged default.
    """

    def __init__(self, socket_path: str | os.PathLike[str] | None = None) -> None:
        self.socket_path = os.fspath(socket_path or calls.default_socket())
        self._idle: list[_UnixConnection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._was_served = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._idle)} idle"
        return f"<Transport {self.socket_path} {state}>"

    def send(self, call: Call[T]) -> T:
        """Send a call and decode its reply.

        Raises: SnapStartError of the reply's code; AGENT_UNREACHABLE without a daemon;
        DEADLINE_EXCEEDED after the call's timeout.
        """
        body = bytearray()
        with self.stream(call) as pieces:
            for piece in pieces:
                body += piece
                if len(body) > call.limit_bytes:
                    raise failures.oversized(call.what, call.limit_bytes)
        return call.decode(bytes(body))

    @contextmanager
    def stream(self, call: Call[T]) -> Iterator[Iterator[bytes]]:
        """Send a call and give its reply's bytes as they come.

        Raises: as `send`. Leaving before the end closes the connection.
        """
        budget = _Budget(call.timeout_s)
        with self._translated(call):
            connection, sock, response = self._answered(call, budget)
        try:
            with self._translated(call):
                if response.status >= 400:
                    body = response.read(1 << 20)
                    after = response.headers.get("Retry-After")
                    raise failures.refusal(call.what, response.status, body, after)
            yield self._pieces(call, response, sock, budget)
        finally:
            self._give_back(connection, response)

    def _answered(self, call: Call[T], budget: _Budget) -> _Answered:
        """The beginning of a reply, on a second connection if the daemon was replaced."""
        patience = Patience(call, was_served=self._was_served, now_s=time.monotonic())
        while True:
            connection = self._take(call)
            try:
                answered = connection, *_start(connection, call, budget)
                self._was_served = True
                return answered
            except _UnconnectedError as exc:
                if not patience.may_wait(exc.reason, time.monotonic()):
                    raise
                time.sleep(LOOK_EVERY_S)
            except _CutOffError as exc:
                connection.close()
                if not patience.may_repeat(exc.reason):
                    raise exc.error from exc
            except BaseException:
                connection.close()
                raise

    def close(self) -> None:
        """Close what is idle and refuse further calls; may be called again."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _pieces(
        self,
        call: Call[T],
        response: http.client.HTTPResponse,
        sock: socket.socket,
        budget: _Budget,
    ) -> Iterator[bytes]:
        # Only the reads are translated: what the caller raises between them is the caller's.
        while not response.isclosed():
            with self._translated(call):
                budget.apply(sock)
                piece = _read(response)
            if piece:
                yield piece

    @contextmanager
    def _translated(self, call: Call[T]) -> Iterator[None]:
        try:
            yield
        except _UnconnectedError as exc:
            raise failures.unreachable(call.what, self.socket_path, exc.reason) from exc.reason
        except TimeoutError as exc:
            raise failures.late(call.what, call.timeout_s) from exc
        except (ConnectionError, http.client.HTTPException) as exc:
            raise failures.broken(call.what, self.socket_path, _detail(exc)) from exc

    def _take(self, call: Call[T]) -> _UnixConnection:
        while True:
            with self._lock:
                if self._closed:
                    raise UsageError(
                        ErrorCode.SESSION_ENDED,
                        f"{call.what}: this client is closed",
                        hint="make a new one, for example with Sandbox.connect(id)",
                    )
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return _UnixConnection(self.socket_path)
            if connection.is_usable():
                return connection
            connection.close()

    def _give_back(self, connection: _UnixConnection, response: http.client.HTTPResponse) -> None:
        read_to_end = response.isclosed() and not response.will_close
        with self._lock:
            if read_to_end and not self._closed and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        response.close()
        connection.close()


_Answered = tuple[_UnixConnection, socket.socket, http.client.HTTPResponse]


class _UnconnectedError(Exception):
    """Connecting failed; kept apart from failures on a connection."""

    def __init__(self, reason: OSError) -> None:
        self.reason = reason


class _CutOffError(Exception):
    """A connection ended without a reply. reason: None if it was closed in order."""

    def __init__(self, error: Exception, reason: OSError | None) -> None:
        self.error = error
        self.reason = reason


def _start(
    connection: _UnixConnection, call: Call[T], budget: _Budget
) -> tuple[socket.socket, http.client.HTTPResponse]:
    if connection.sock is None:
        try:
            connection.connect()
        except OSError as exc:
            raise _UnconnectedError(exc) from exc
    # Kept here, because a reply without keep-alive takes the socket away from the connection.
    sock: socket.socket = connection.sock
    budget.apply(sock)
    unsent = _request(connection, call)
    budget.apply(sock)
    try:
        return sock, connection.getresponse()
    except http.client.RemoteDisconnected as exc:
        raise _CutOffError(exc, unsent) from exc
    except ConnectionError as exc:
        raise _CutOffError(exc, exc) from exc


def _request(connection: _UnixConnection, call: Call[T]) -> OSError | None:
    """Returns: why not all of it could be sent.

    The daemon may refuse a large body early: its answer tells more than the broken pipe.
    """
    body = call.body.pieces() if isinstance(call.body, calls.Upload) else call.body
    try:
        connection.request(call.method, call.path, body, call.headers())
    except (BrokenPipeError, ConnectionResetError) as exc:
        return exc
    return None


def _read(response: http.client.HTTPResponse) -> bytes:
    # read1 gives events as they come; with a length, only read keeps count of what is missing.
    piece = (response.read1 if response.chunked else response.read)(_PIECE_BYTES)
    if not piece and response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return piece


def _detail(exc: Exception) -> str:
    if isinstance(exc, http.client.IncompleteRead):
        return "the reply was cut short"
    return str(exc) or type(exc).__name__
