"""Guests on a socket pair that speak the inject protocol, or break it."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

CAPABILITIES = {
    "type": "CAPABILITIES",
    "protocol_version": "1",
    "supported_features": ["prepare", "commit", "cancel"],
}


def frame(message: object) -> bytes:
    """A message as it goes over the wire."""
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body


class Guest:
    """The runtime's end of one connection. `heard` is all it was told, in order."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self.heard: list[dict[str, object]] = []

    def say(self, message: object) -> None:
        """Send one message."""
        self.put(frame(message))

    def put(self, data: bytes, *, piece: int = 1 << 20) -> None:
        """Send bytes in pieces."""
        for start in range(0, len(data), piece):
            self._connection.sendall(data[start : start + piece])

    def hear(self) -> str | None:
        """Wait for the next message; returns its type, or None at the end of the stream."""
        size = self._take(4)
        if size is None:
            return None
        body = self._take(struct.unpack(">I", size)[0])
        assert body is not None
        message = json.loads(body)
        self.heard.append(message)
        return str(message["type"])

    def hear_all(self) -> None:
        """Listen until the host hangs up."""
        while self.hear() is not None:
            pass

    def hang_up(self) -> None:
        """Close both directions."""
        self._connection.shutdown(socket.SHUT_RDWR)

    def _take(self, n: int) -> bytes | None:
        while len(self._received) < n:
            data = self._connection.recv(65536)
            if not data:
                return None
            self._received += data
        taken, self._received = self._received[:n], self._received[n:]
        return taken


Behaviour = Callable[[Guest], None]


def honest(guest: Guest) -> None:
    """Do what the protocol says, then listen for anything more."""
    guest.say(CAPABILITIES)
    kind = guest.hear()
    if kind == "PREPARE":
        guest.say({"type": "READY"})
        kind = guest.hear()
    if kind == "COMMIT":
        guest.say({"type": "STARTED"})
    guest.hear_all()


def _live(behave: Behaviour, guest: Guest) -> None:
    """Behave until the host hangs up, which it may at any time."""
    with suppress(ConnectionError):
        behave(guest)


@contextmanager
def guests(behaviours: Sequence[Behaviour]) -> Iterator[tuple[list[Guest], list[socket.socket]]]:
    """Guests in threads; gives them with our ends, which are closed at the end of the block."""
    with ExitStack() as stack:
        ours, theirs, threads = [], [], []
        for behave in behaviours:
            mine, its = socket.socketpair()
            stack.callback(its.close)
            ours.append(mine)
            theirs.append(Guest(its))
            threads.append(threading.Thread(target=_live, args=(behave, theirs[-1])))
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        for mine in ours:
            stack.callback(mine.close)
        yield theirs, ours
