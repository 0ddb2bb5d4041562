"""Encode what crosses a process or VM boundary of the guest: frames, messages.

The layout is that of docs/guest-protocol.md sections 2.1 and 3.
"""

from __future__ import annotations

import json
import struct
from typing import Any

MAGIC = 0x5346
HEADER = struct.Struct(">HBBII")
HEADER_BYTES = HEADER.size
LENGTH = struct.Struct(">I")

HELLO = 1
HELLO_ACK = 2
OPEN = 3
DATA = 4
CLOSE = 5
RESET = 6
WINDOW = 7

MARKER = bytes.fromhex("f5534e4150f75354415254fb4d5831ff")
EPOCH_BYTES = 16
PAYLOAD_MAX_BYTES = 65536
CREDIT_BYTES = 262144
STREAMS_MAX = 64
MESSAGE_MAX_BYTES = 4 * 1024 * 1024

_JSON_SPACE = " \t\r\n"

JsonObject = dict[str, Any]

_dumps = json.JSONEncoder(separators=(",", ":")).encode
_scan = json.JSONDecoder().raw_decode


class WireError(ValueError):
    """The peer sent bytes that are not what the protocol allows."""


def encode_frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """One multiplexer frame; the caller keeps the payload within PAYLOAD_MAX_BYTES."""
    return HEADER.pack(MAGIC, kind, 0, stream, len(payload)) + payload


def encode_json(obj: JsonObject) -> bytes:
    """Compact UTF-8 JSON; lone surrogates stay escaped, so any Python text can be carried."""
    return _dumps(obj).encode("ascii")


def decode_json(body: bytes | bytearray | memoryview) -> JsonObject:
    """The object in `body`. Raises WireError when it is not UTF-8, not JSON, or not an object."""
    try:
        text = str(body, "utf-8").strip(_JSON_SPACE)
        value, end = _scan(text)
    except (ValueError, RecursionError) as exc:
        raise WireError(f"a body of {len(body)} bytes is not JSON: {exc}") from exc
    if end != len(text):
        raise WireError(f"a body of {len(body)} bytes has more after its JSON")
    if not isinstance(value, dict):
        raise WireError(f"a body holds a JSON {type(value).__name__}, not an object")
    return value


def encode_message(obj: JsonObject) -> bytes:
    """A length-prefixed message. Raises WireError over MESSAGE_MAX_BYTES."""
    body = encode_json(obj)
    if len(body) > MESSAGE_MAX_BYTES:
        raise WireError(f"a message of {len(body)} bytes is over {MESSAGE_MAX_BYTES}")
    return LENGTH.pack(len(body)) + body


class MessageReader:
    """Cut a byte stream into messages.

    Args: limit_bytes: a longer message is refused as soon as its length is read.
    """

    def __init__(self, limit_bytes: int = MESSAGE_MAX_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()

    @property
    def is_at_boundary(self) -> bool:
        """No part of a message is waiting."""
        return not self._buffer

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._buffer += data

    def next(self) -> JsonObject | None:
        """The next whole message, None until there is one. Raises WireError, then is unusable."""
        buffer = self._buffer
        if len(buffer) < LENGTH.size:
            return None
        (size,) = LENGTH.unpack_from(buffer)
        if size > self._limit_bytes:
            raise WireError(f"a message of {size} bytes is over {self._limit_bytes}")
        end = LENGTH.size + size
        if len(buffer) < end:
            return None
        body = bytes(buffer[LENGTH.size : end])
        del buffer[:end]
        return decode_json(body)
