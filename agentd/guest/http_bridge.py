"""Own the HTTP process: start it, splice streams to it, answer what it asks."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from agentd.guest.link import Link, LinkError
from agentd.guest.loop import HANGUP, READ, WRITE, Loop
from agentd.guest.observe import Poller
from agentd.guest.session import Session
from agentd.guest.settings import Settings
from agentd.guest.streams import Handler, RefusedError, Stream
from agentd.guest.wire import JsonObject

_BACKLOG = 64
_CHUNK_BYTES = 65536
_CONGESTED_BYTES = 262144
_RESTART_DELAY_S = 1.0
_WARM_S = 30.0
# An unknown path is answered without a question to the supervisor, which is waiting meanwhile.
_WARM_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class HttpBridge:
    """The supervisor's side of the HTTP interface.

    Args: report: makes the status report.
    """

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        session: Session,
        report: Callable[[Poller], JsonObject],
    ) -> None:
        self.active_tasks = 0
        self._loop = loop
        self._settings = settings
        self._session = session
        self._report = report
        self._listener: socket.socket | None = None
        self._link: Link | None = None
        self._connections: socket.socket | None = None
        self._pid = 0

    def start(self) -> None:
        """Bind the port, when there is one, and start the process. Idempotent. Raises OSError."""
        if self._settings.http_host and self._listener is None:
            address = (self._settings.http_host, self._settings.http_port)
            self._listener = socket.create_server(address, backlog=_BACKLOG)
        if self._connections is None:
            self._start_process()

    def warm(self) -> None:
        """Have a process that has answered once: what is slow about the first request is done.

        Blocks for as long as that takes. Raises: LinkError when it does not answer.
        """
        self.start()
        try:
            with self._connect() as connection:
                connection.settimeout(_WARM_S)
                connection.sendall(_WARM_REQUEST)
                answer = b"".join(iter(lambda: connection.recv(_CHUNK_BYTES), b""))
        except (OSError, RefusedError) as exc:
            raise LinkError(f"the HTTP process did not answer: {exc}") from exc
        if not answer:
            raise LinkError("the HTTP process closed its first connection without an answer")

    @property
    def port(self) -> int:
        """The port bound; 0 when there is none."""
        return int(self._listener.getsockname()[1]) if self._listener is not None else 0

    def pids(self) -> set[int]:
        """The process, if it runs."""
        return {self._pid} if self._pid else set()

    def close(self) -> None:
        """End the process, release the sockets."""
        pid, self._pid = self._pid, 0
        self._drop_process()
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def open_stream(self, stream: Stream) -> Handler:
        """A host wants an HTTP connection. Raises RefusedError when the process cannot take it."""
        return _Splice(self._loop, stream, self._connect())

    def _connect(self) -> socket.socket:
        if self._connections is None:
            self._start_process()
        assert self._connections is not None
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._connections, [b"c"], [theirs.fileno()])
        except OSError as exc:
            ours.close()
            raise RefusedError("http_unavailable", f"the HTTP process is not there: {exc}") from exc
        finally:
            theirs.close()
        return ours

    def _start_process(self) -> None:
        ours, theirs = socket.socketpair()
        passing, passed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            from agentd.guest import http_process

            http_process.run(self._settings, theirs, passed, self._listener)
        theirs.close()
        passed.close()
        self._connections = passing
        self._link = Link(self._loop, ours, self._on_message, lambda _why: self._drop_process())
        self._loop.on_exit(self._pid, self._exited)

    def _exited(self, _wait_status: int) -> None:
        was_ours, self._pid = self._pid, 0
        self._drop_process()
        if was_ours and self._listener is not None:
            self._loop.call_later(_RESTART_DELAY_S, self._start_process)

    def _drop_process(self) -> None:
        self.active_tasks = 0
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._connections is not None:
            self._connections.close()
            self._connections = None

    def _on_message(self, message: JsonObject) -> None:
        if self._link is None:
            return
        if message.get("type") == "tasks":
            self.active_tasks = int(message["count"])
        elif message.get("type") == "status":
            poller = Poller(self._pid, int(message.get("inode", 0)))
            self._link.send(self._report(poller))
        else:
            self._link.send(
                {
                    "gate": self._session.gate,
                    "workspace": self._session.workspace,
                    "environment": self._session.environment,
                    "auth_key": self._session.auth_key,
                }
            )


class _Splice:
    """One stream joined to one connection of the HTTP process; owns the socket."""

    def __init__(self, loop: Loop, stream: Stream, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._stream = stream
        self._sock: socket.socket | None = sock
        self._to_process = bytearray()
        self._host_finished = False
        self._is_paused = False
        loop.add(sock.fileno(), self._ready)

    def on_data(self, data: bytes) -> None:
        """From the host; credit goes back when the process has taken it."""
        if self._sock is None:
            self._stream.consume(len(data))
            return
        self._to_process += data
        self._write()

    def on_finish(self) -> None:
        """The host sends no more."""
        self._host_finished = True
        self._write()

    def on_writable(self) -> None:
        """The host has caught up."""
        if self._is_paused:
            self._is_paused = False
            self._watch()

    def on_gone(self) -> None:
        """The stream ended under us."""
        self._close()

    def _close(self) -> None:
        if self._sock is not None:
            self._loop.remove(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def _watch(self) -> None:
        if self._sock is not None:
            events = (0 if self._is_paused else READ) | (WRITE if self._to_process else 0)
            self._loop.modify(self._sock.fileno(), events)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
        # A hang-up is reported even while paused; what is left then is bounded by the socket.
        is_due = not self._is_paused or events & HANGUP
        if events & ~WRITE and self._sock is not None and is_due:
            self._read()

    def _write(self) -> None:
        if self._sock is None:
            return
        try:
            while self._to_process:
                sent = self._sock.send(self._to_process)
                del self._to_process[:sent]
                self._stream.consume(sent)
            if self._host_finished:
                self._sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._stream.consume(len(self._to_process))
            self._to_process.clear()
        self._watch()

    def _read(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._stream.consume(len(self._to_process))
            self._close()
            self._stream.finish()
            return
        self._stream.write(data)
        if self._stream.queued_bytes() > _CONGESTED_BYTES:
            self._is_paused = True
            self._watch()
