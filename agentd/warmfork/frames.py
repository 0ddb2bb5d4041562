"""Encode and cut frames of the guest channel (docs/guest-protocol.md, sections 2.1 and 2.3).

Nothing here knows a socket or a stream's state. The one trap is the marker: no frame may contain
it, and a frame is header *and* payload, so the last bytes of a DATA frame's length field together
with the start of its payload can spell it as well; `encode_data` looks at the whole frame.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final

from agentd.units import KIB

MARKER: Final = bytes.fromhex("f5534e4150f75354415254fb4d5831ff")
MAGIC: Final = b"SF"
EPOCH_BYTES: Final = 16
PAYLOAD_MAX_BYTES: Final = 64 * KIB
CREDIT_BYTES: Final = 256 * KIB
STREAMS_MAX: Final = 64

_HEADER: Final = struct.Struct(">2sBBII")
HEADER_BYTES: Final = _HEADER.size
_CREDIT: Final = struct.Struct(">I")
_CUT_BYTES: Final = len(MARKER) // 2
_TAIL_BYTES: Final = len(MARKER) - 1


class FrameType(enum.IntEnum):
    """What a frame says."""

    HELLO = 1
    HELLO_ACK = 2
    OPEN = 3
    DATA = 4
    CLOSE = 5
    RESET = 6
    WINDOW = 7


_TYPES: Final = {int(kind): kind for kind in FrameType}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as received."""

    type: FrameType
    stream: int
    payload: bytes


class ProtocolError(Exception):
    """The peer sent bytes that the protocol does not allow."""


def encode_frame(kind: FrameType, stream: int, payload: bytes = b"") -> bytes:
    """One frame; the caller keeps the payload within PAYLOAD_MAX_BYTES."""
    return _HEADER.pack(MAGIC, kind, 0, stream, len(payload)) + payload


def encode_window(stream: int, credit_bytes: int) -> bytes:
    """A frame that lets the peer send `credit_bytes` more."""
    return encode_frame(FrameType.WINDOW, stream, _CREDIT.pack(credit_bytes))


def decode_window(frame: Frame) -> int:
    """The credit in a WINDOW frame, in bytes. Raises ProtocolError."""
    if len(frame.payload) != _CREDIT.size:
        raise ProtocolError(f"WINDOW of stream {frame.stream} has {len(frame.payload)} bytes")
    credit: int = _CREDIT.unpack(frame.payload)[0]
    return credit


def encode_data(stream: int, data: memoryview) -> tuple[bytes, int]:
    """One DATA frame with as much of `data` as one frame may hold.

    Returns: the frame, and how many bytes of `data` are in it: all of them, up to
    PAYLOAD_MAX_BYTES, unless the marker would appear; then the payload ends inside it.
    """
    size_bytes = min(len(data), PAYLOAD_MAX_BYTES)
    while True:
        header = _HEADER.pack(MAGIC, FrameType.DATA, 0, stream, size_bytes)
        frame = b"".join((header, data[:size_bytes]))
        at = frame.find(MARKER)
        if at < 0:
            return frame, size_bytes
        # The shorter length may spell a marker anew, hence the loop; each round is shorter.
        size_bytes = at + _CUT_BYTES - HEADER_BYTES


def greeting(epoch: bytes) -> bytes:
    """What a host sends first on a new connection."""
    return MARKER + encode_frame(FrameType.HELLO, 0, epoch)


class Synchroniser:
    """Discard what a connection carries up to the guest's answer to our own epoch."""

    def __init__(self, epoch: bytes) -> None:
        self._answer = MARKER + encode_frame(FrameType.HELLO_ACK, 0, epoch)
        self._tail = b""
        self.discarded_bytes = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take received bytes. Returns what follows the answer, None while it has not come."""
        joined = self._tail + data
        at = joined.find(self._answer)
        if at >= 0:
            self.discarded_bytes += at
            return joined[at + len(self._answer) :]
        keep_bytes = min(len(joined), len(self._answer) - 1)
        self.discarded_bytes += len(joined) - keep_bytes
        self._tail = joined[len(joined) - keep_bytes :]
        return None


class FrameCutter:
    """Cut received bytes, in any chunking, into frames.

    Holds at most one unfinished frame beside the chunk in hand. Unusable after ProtocolError.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Take received bytes.

        Raises: ProtocolError when the guest starts a new epoch, which it does only when another
        host has written to the channel. Whatever frames came before in this chunk are lost too:
        their streams ended with the epoch.
        """
        edge = self._tail + data[:_TAIL_BYTES]
        if MARKER in data or MARKER in edge:
            raise ProtocolError("the guest began a new epoch without being asked to")
        self._tail = data[-_TAIL_BYTES:] if len(data) >= _TAIL_BYTES else edge[-_TAIL_BYTES:]
        self._buffer += data

    def take(self) -> list[Frame]:
        """The frames that are complete. Raises: ProtocolError at the first bad header."""
        frames: list[Frame] = []
        buffer, at = self._buffer, 0
        with memoryview(buffer) as view:
            while len(buffer) - at >= HEADER_BYTES:
                magic, kind, flags, stream, size_bytes = _HEADER.unpack_from(view, at)
                if magic != MAGIC or flags or kind not in _TYPES or size_bytes > PAYLOAD_MAX_BYTES:
                    raise ProtocolError(
                        f"frame header magic={magic.hex()} type={kind} flags={flags} "
                        f"length={size_bytes}"
                    )
                end = at + HEADER_BYTES + size_bytes
                if len(buffer) < end:
                    break
                payload = bytes(view[at + HEADER_BYTES : end])
                frames.append(Frame(_TYPES[kind], stream, payload))
                at = end
        del buffer[:at]
        return frames
