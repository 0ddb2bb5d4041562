"""Exchange messages with another process of the runtime over a Unix socket."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from agentd.guest import wire
from agentd.guest.loop import READ, WRITE, Loop
from agentd.guest.wire import JsonObject, MessageReader, WireError

LINK_MESSAGE_MAX_BYTES = 16 * 1024 * 1024
_READ_BYTES = 262144


class LinkError(Exception):
    """The other process is gone, silent, or sent garbage."""


class Link:
    """The supervisor's end; owns the socket.

    Args: on_message: called for each message. on_end: called once, with the reason, when the
    link has broken; the owner then closes it.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_message: Callable[[JsonObject], None],
        on_end: Callable[[str], None],
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._reader = MessageReader(LINK_MESSAGE_MAX_BYTES)
        self._arrived: deque[JsonObject] = deque()
        self._output = bytearray()
        self._is_closed = False
        loop.add(sock.fileno(), self._on_ready)

    def close(self) -> None:
        """Close the socket; idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove(self._sock.fileno())
            self._sock.close()

    def send(self, message: JsonObject) -> None:
        """Queue a message; an error shows as the end of the link."""
        if not self._is_closed:
            body = wire.encode_json(message)
            self._output += wire.LENGTH.pack(len(body)) + body
            self._write()

    def ask(self, message: JsonObject, answers: tuple[str, ...], deadline_s: float) -> JsonObject:
        """Send, then wait for a message of one of the types `answers`, blocking the caller.

        Other messages that arrive meanwhile are handed to `on_message` in order.
        Raises: LinkError when the link ends or `deadline_s` seconds pass first.
        """
        self.send(message)
        return self.wait(answers, deadline_s)

    def wait(self, answers: tuple[str, ...], deadline_s: float) -> JsonObject:
        """The waiting half of `ask`, so that several processes can be asked at once."""
        deadline = time.monotonic() + deadline_s
        while True:
            while self._arrived:
                message = self._arrived.popleft()
                if message.get("type") in answers:
                    return message
                self._on_message(message)
            self._wait_once(deadline - time.monotonic())

    def _wait_once(self, timeout_s: float) -> None:
        if self._is_closed:
            raise LinkError("the process is gone")
        if timeout_s <= 0:
            raise LinkError("the process did not answer in time")
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._output else 0))
        for _fd, events in poll.poll(timeout_s * 1000):
            if events & select.POLLOUT:
                self._write()
            if events & ~select.POLLOUT:
                self._read()

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._write()
        if events & ~WRITE and not self._is_closed:
            try:
                self._read()
            except LinkError as exc:
                self._on_end(str(exc))
                return
        while self._arrived and not self._is_closed:
            self._on_message(self._arrived.popleft())

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:
            raise LinkError(f"reading failed: {exc}") from exc
        if not data:
            raise LinkError("the process closed its end")
        self._reader.feed(data)
        try:
            while (message := self._reader.next()) is not None:
                self._arrived.append(message)
        except WireError as exc:
            raise LinkError(f"the process sent garbage: {exc}") from exc

    def _write(self) -> None:
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._output:
                sent = self._sock.send(self._output)
                del self._output[:sent]
        if not self._is_closed:
            self._loop.modify(self._sock.fileno(), READ | WRITE if self._output else READ)


class BlockingLink:
    """The other process's end: one thread, blocking; borrows the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = MessageReader(LINK_MESSAGE_MAX_BYTES)

    def receive(self) -> JsonObject | None:
        """The next message; None when the supervisor is gone."""
        while True:
            message = self._reader.next()
            if message is not None:
                return message
            data = self._sock.recv(_READ_BYTES)
            if not data:
                return None
            self._reader.feed(data)

    def send(self, message: JsonObject) -> None:
        """Write one message."""
        body = wire.encode_json(message)
        self._sock.sendall(wire.LENGTH.pack(len(body)) + body)
