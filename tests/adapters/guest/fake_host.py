"""Stand in for a host: speaks the multiplexer over any byte channel, blocking, with deadlines."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections import defaultdict
from typing import Any

MARKER = bytes.fromhex("f5534e4150f75354415254fb4d5831ff")
HEADER = struct.Struct(">HBBII")
HELLO, HELLO_ACK, OPEN, DATA, CLOSE, RESET, WINDOW = range(1, 8)

Message = dict[str, Any]


def encode(message: Message) -> bytes:
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(0x5346, kind, 0, stream, len(payload)) + payload


class FakeHost:
    """One connection of a host; owns the socket."""

    def __init__(self, sock: socket.socket, *, gives_credit: bool = True) -> None:
        self.sock = sock
        self.gives_credit = gives_credit
        self.received: dict[int, bytearray] = defaultdict(bytearray)
        self.closed: set[int] = set()
        self.resets: dict[int, Message] = {}
        self._buffer = bytearray()
        self._next_id = 1
        self._credit: dict[int, int] = defaultdict(lambda: 262144)

    def close(self) -> None:
        self.sock.close()

    def hello(self, deadline_s: float = 30.0) -> None:
        epoch = os.urandom(16)
        self.sock.sendall(MARKER + frame(HELLO, 0, epoch))
        wanted = MARKER + frame(HELLO_ACK, 0, epoch)
        deadline = time.monotonic() + deadline_s
        while (at := self._buffer.find(wanted)) < 0:
            self._read(deadline)
        del self._buffer[: at + len(wanted)]

    def open(self, service: str, **params: Any) -> int:
        stream, self._next_id = self._next_id, self._next_id + 2
        self.sock.sendall(frame(OPEN, stream, json.dumps({"service": service, **params}).encode()))
        return stream

    def send(self, stream: int, message: Message) -> None:
        self.write(stream, encode(message))

    def write(self, stream: int, data: bytes, deadline_s: float = 30.0) -> None:
        deadline = time.monotonic() + deadline_s
        while data:
            size = min(65536, len(data), self._credit[stream])
            if not size:
                if stream in self.resets:
                    return
                self._pump(deadline)
                continue
            self._credit[stream] -= size
            self.sock.sendall(frame(DATA, stream, data[:size]))
            data = data[size:]

    def finish(self, stream: int) -> None:
        self.sock.sendall(frame(CLOSE, stream))

    def reset(self, stream: int) -> None:
        self.sock.sendall(frame(RESET, stream, b'{"code":"cancelled","message":""}'))

    def message(self, stream: int, deadline_s: float = 30.0) -> Message | None:
        """The next message; None when the guest closed the stream."""
        deadline = time.monotonic() + deadline_s
        while True:
            buffer = self.received[stream]
            if len(buffer) >= 4:
                size = int.from_bytes(buffer[:4], "big")
                if len(buffer) >= 4 + size:
                    body = bytes(buffer[4 : 4 + size])
                    del buffer[: 4 + size]
                    return dict(json.loads(body))
            if stream in self.resets:
                raise ConnectionResetError(self.resets[stream]["code"])
            if stream in self.closed:
                return None
            self._pump(deadline)

    def messages(self, stream: int, deadline_s: float = 30.0) -> list[Message]:
        found = []
        while (message := self.message(stream, deadline_s)) is not None:
            found.append(message)
        return found

    def raw(self, stream: int, deadline_s: float = 30.0) -> bytes:
        """Everything up to the guest's CLOSE."""
        deadline = time.monotonic() + deadline_s
        while stream not in self.closed and stream not in self.resets:
            self._pump(deadline)
        return bytes(self.received[stream])

    def execute(self, code: str, deadline_s: float = 60.0, **members: Any) -> list[Message]:
        stream = self.open("execute")
        self.send(stream, {"execution_id": "e", "code": code, **members})
        self.finish(stream)
        return self.messages(stream, deadline_s)

    def status(self) -> Message:
        message = self.message(self.open("status"))
        assert message is not None
        return message

    def ask(self, service: str, **members: Any) -> Message:
        stream = self.open(service)
        self.send(stream, members)
        self.finish(stream)
        message = self.message(stream)
        assert message is not None
        return message

    def inject(self, commit: Message | None = None, **prepare: Any) -> int:
        stream = self.open("inject")
        assert (self.message(stream) or {})["type"] == "CAPABILITIES"
        context = json.dumps(prepare.pop("context", {}))
        self.send(stream, {"type": "PREPARE", "task_id": "t1", "context": context, **prepare})
        ready = self.message(stream)
        assert ready == {"type": "READY"}, ready
        self.send(stream, {"type": "COMMIT", **(commit or {})})
        started = self.message(stream)
        assert started == {"type": "STARTED"}, started
        return stream

    def pump(self, seconds: float) -> None:
        """Take what comes for a while."""
        deadline = time.monotonic() + seconds
        try:
            while True:
                self._pump(deadline)
        except TimeoutError:
            return

    def _read(self, deadline: float) -> None:
        self.sock.settimeout(max(0.001, deadline - time.monotonic()))
        data = self.sock.recv(1 << 20)
        if not data:
            raise ConnectionError("the guest closed the channel")
        self._buffer += data

    def _pump(self, deadline: float) -> None:
        if not self._frames():
            self._read(deadline)
            self._frames()

    def _frames(self) -> int:
        count = 0
        while len(self._buffer) >= HEADER.size:
            magic, kind, flags, stream, size = HEADER.unpack_from(self._buffer)
            assert (magic, flags) == (0x5346, 0), self._buffer[:64]
            if len(self._buffer) < HEADER.size + size:
                break
            payload = bytes(self._buffer[HEADER.size : HEADER.size + size])
            del self._buffer[: HEADER.size + size]
            self._frame(kind, stream, payload)
            count += 1
        return count

    def _frame(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self.received[stream] += payload
            if self.gives_credit:
                self.sock.sendall(frame(WINDOW, stream, struct.pack(">I", len(payload))))
        elif kind == CLOSE:
            self.closed.add(stream)
        elif kind == RESET:
            self.resets[stream] = json.loads(payload)
        elif kind == WINDOW:
            self._credit[stream] += int.from_bytes(payload, "big")
        else:
            raise AssertionError(f"frame type {kind} from the guest")
