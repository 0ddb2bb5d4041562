"""Carry inject conversations over a Unix socket, over streams."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from agentd.guest.hooks import explain
from agentd.guest.loop import READ, Loop, Timer
from agentd.guest.prepare import Plan
from agentd.guest.streams import Handler, RefusedError, Stream
from agentd.guest.warmfork import (
    Action,
    Apply,
    Exit,
    Hangup,
    Release,
    Send,
    State,
    WarmFork,
)
from agentd.guest.wire import JsonObject

COMMIT_FAILED = "commit_failed"
_READ_BYTES = 65536


class Transport(Protocol):
    """One connection, as a conversation needs it."""

    def write(self, data: bytes) -> None:
        """Send bytes; an error shows as end of file later."""

    def before_leaving(self, callback: Callable[[], None]) -> None:
        """Call once, just before the bytes of the next `write` leave the process."""

    def reset(self, code: str, message: str) -> None:
        """Say why the instance is lost, where there are words for it."""

    def finish(self) -> None:
        """Close after what has been written."""


class InjectServer:
    """The instance's waiting for its session.

    Args: apply: makes a plan true, opens the gate; raises on failure. leave: ends the runtime.
    """

    def __init__(
        self,
        loop: Loop,
        fork: WarmFork,
        *,
        apply: Callable[[Plan], None],
        leave: Callable[[int, str], None],
    ) -> None:
        self.fork = fork
        self._loop = loop
        self._apply = apply
        self._leave = leave
        self.is_listening = False
        self._listener: socket.socket | None = None
        self._path = ""
        self._peers: set[Peer] = set()

    def listen(self, path: str) -> None:
        """Wait for a session, over streams and, unless `path` is empty, over a Unix socket.

        It is bound with mode 0600; a stale one is removed. Raises OSError.
        """
        if path:
            self._bind(path)
        self.is_listening = True

    def _bind(self, path: str) -> None:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(path)
            listener.listen(8)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(mask)
        listener.setblocking(False)
        self._listener, self._path = listener, path
        self._loop.add(listener.fileno(), self._accept)

    def close(self) -> None:
        """Wait no more. The listener is closed, then unlinked: user code must not reach it."""
        self.is_listening = False
        if self._listener is not None:
            self._loop.remove(self._listener.fileno())
            self._listener.close()
            self._listener = None
            with suppress(FileNotFoundError):
                os.unlink(self._path)

    def open_stream(self, stream: Stream, _params: JsonObject) -> Handler:
        """A host opened an inject stream. Raises RefusedError once the gate is open."""
        if self.fork.state is State.STARTED:
            raise RefusedError("gate_open", "the instance has its session")
        return StreamPeer(self, stream)

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        with suppress(BlockingIOError, ConnectionAbortedError):
            SocketPeer(self, self._loop, self._listener.accept()[0])

    def join(self, peer: Peer) -> None:
        """A conversation begins."""
        self._peers.add(peer)

    def perform(self, peer: Peer, actions: list[Action]) -> None:
        """Do what the conversation decided, in order."""
        for action in actions:
            match action:
                case Send(data):
                    peer.transport.before_leaving(peer.on_leaving)
                    peer.transport.write(data)
                case Apply(plan):
                    self._commit(peer, plan)
                case Hangup():
                    peer.end()
                case Release():
                    self._release(peer)
                case Exit(status, reason):
                    if status:
                        peer.transport.reset(COMMIT_FAILED, reason)
                    peer.end()
                    self._leave(status, reason)

    def _commit(self, peer: Peer, plan: Plan) -> None:
        try:
            self._apply(plan)
        except Exception as exc:
            outcome = peer.conversation.failed(explain(exc))
        else:
            outcome = peer.conversation.applied()
        self.perform(peer, outcome)

    def _release(self, started: Peer) -> None:
        """STARTED leaves first; the rest is done before anything the host sends afterwards."""
        started.end()
        self._loop.call_later(0, self._stop_waiting)

    def _stop_waiting(self) -> None:
        for peer in list(self._peers):
            peer.end()
        self.close()

    def left(self, peer: Peer) -> None:
        """A conversation is over."""
        self._peers.discard(peer)

    def timer(self, peer: Peer) -> Timer | None:
        """Call the peer at its conversation's deadline."""
        deadline_ns = peer.conversation.deadline_ns
        if deadline_ns is None:
            return None
        return self._loop.call_later((deadline_ns - time.monotonic_ns()) / 1e9, peer.on_deadline)


class Peer:
    """A conversation on a transport; ends once."""

    def __init__(self, server: InjectServer, transport: Transport) -> None:
        self.transport = transport
        self._server = server
        self._is_over = False
        self._timer: Timer | None = None
        self.conversation, actions = server.fork.connect(time.monotonic_ns())
        server.join(self)
        self._after(actions)

    def _after(self, actions: list[Action]) -> None:
        self._server.perform(self, actions)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self._is_over else self._server.timer(self)

    def receive(self, data: bytes) -> None:
        """Bytes came; they are ignored once the conversation is over."""
        if not self._is_over:
            self._after(self.conversation.receive(data, time.monotonic_ns()))

    def lost(self) -> None:
        """The connection ended."""
        if not self._is_over:
            actions = self.conversation.eof()
            self.end()
            self._server.perform(self, actions)

    def on_leaving(self) -> None:
        """What was written leaves now."""
        self.conversation.sending(time.monotonic_ns())

    def on_deadline(self) -> None:
        """The read deadline may have passed."""
        if not self._is_over:
            self._after(self.conversation.tick(time.monotonic_ns()))

    def end(self) -> None:
        """Close the connection after what has been written; idempotent."""
        if not self._is_over:
            self._is_over = True
            if self._timer is not None:
                self._timer.cancel()
            self._server.left(self)
            self.transport.finish()


class StreamPeer:
    """An inject stream of the multiplexer."""

    def __init__(self, server: InjectServer, stream: Stream) -> None:
        self._stream = stream
        self._peer = Peer(server, stream)

    def on_data(self, data: bytes) -> None:
        """Bytes came."""
        self._stream.consume(len(data))
        self._peer.receive(data)

    def on_finish(self) -> None:
        """The host closed its direction: end of file."""
        self._peer.lost()

    def on_gone(self) -> None:
        """The stream ended under us."""
        self._peer.lost()

    def on_writable(self) -> None:
        """Nothing waits here: the messages are small."""


class SocketPeer:
    """A connection on the Unix socket; owns it. All that is written fits the socket's buffer."""

    def __init__(self, server: InjectServer, loop: Loop, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        loop.add(sock.fileno(), self._ready, READ)
        self._peer = Peer(server, self)

    def write(self, data: bytes) -> None:
        """A host that does not read loses the connection."""
        with suppress(OSError):
            self._sock.sendall(data)

    def before_leaving(self, callback: Callable[[], None]) -> None:
        """Now: `write` does not queue."""
        callback()

    def reset(self, _code: str, _message: str) -> None:
        """The inject protocol has no message for it: the end of the connection says it."""

    def finish(self) -> None:
        """Close; what was written stays readable for the host."""
        self._loop.remove(self._sock.fileno())
        self._sock.close()

    def _ready(self, _events: int) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._peer.receive(data)
        else:
            self._peer.lost()
