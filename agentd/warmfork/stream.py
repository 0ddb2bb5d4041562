"""Give one stream of a guest channel the shape of a pipe."""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from types import TracebackType
from typing import Final, Protocol, Self

import msgspec

from agentd.errors import ErrorCode, PeerError, SnapStartError, UsageError
from agentd.wire.guest import MESSAGE_MAX_BYTES

_LENGTH: Final = struct.Struct(">I")


class Carrier(Protocol):
    """What a stream needs of its channel."""

    def send_data(self, stream: int, data: memoryview) -> int:
        """Send what credit and frame size allow; the number of bytes."""

    def send_close(self, stream: int) -> None:
        """Half-close."""

    def send_reset(self, stream: int, code: str, message: str) -> None:
        """End both directions."""

    def give_back(self, stream: int, size_bytes: int) -> None:
        """Return credit to the guest."""

    async def drain(self) -> None:
        """Wait until the socket takes more."""


class Stream:
    """One stream; made by `GuestChannel.open`, and reset when its `async with` ends early.

    One task may read while another writes; two readers or two writers at once would mix their
    bytes. What had arrived before a failure is delivered before the failure is raised. At most
    the channel's credit plus one message is held in memory.
    """

    def __init__(self, carrier: Carrier, ident: int, service: str, name: str) -> None:
        self.ident = ident
        self.service = service
        self._name = name
        self._carrier = carrier
        self._chunks: deque[bytes] = deque()
        self._taken = bytearray()
        self._got_eof = False
        self._sent_eof = False
        self._failure: SnapStartError | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    def __repr__(self) -> str:
        flags = [
            word
            for word, is_set in (
                ("eof-received", self._got_eof),
                ("eof-sent", self._sent_eof),
                ("failed", self._failure is not None),
            )
            if is_set
        ]
        return f"<Stream {self._name}#{self.ident} {self.service} {' '.join(flags) or 'open'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.reset()

    # -- reading --------------------------------------------------------------------------

    async def read(self) -> bytes:
        """The next bytes, empty at the guest's end of the stream.

        Raises: the error that ended the stream. Cancellation: loses nothing.
        """
        if self._taken:
            data = bytes(self._taken)
            self._taken.clear()
            return data
        return await self._next_chunk()

    async def read_message(self) -> bytes | None:
        """The JSON text of the next message, None at the end of the stream.

        Raises: PeerError for a message that is too long or cut off, as `read` otherwise.
        Cancellation: loses nothing.
        """
        while (body := self._cut_message()) is None:
            chunk = await self._next_chunk()
            if not chunk:
                if self._taken:
                    raise self._broken(f"ended within a message, after {len(self._taken)} bytes")
                return None
            self._taken += chunk
        return body

    def _cut_message(self) -> bytes | None:
        taken = self._taken
        if len(taken) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(taken)[0]
        if end > _LENGTH.size + MESSAGE_MAX_BYTES:
            raise self._broken(f"announced a message of {end - _LENGTH.size} bytes")
        if len(taken) < end:
            return None
        with memoryview(taken) as view:
            body = bytes(view[_LENGTH.size : end])
        del taken[:end]
        return body

    async def _next_chunk(self) -> bytes:
        while not self._chunks:
            if self._got_eof:
                return b""
            self._raise_failure()
            self._readable.clear()
            await self._readable.wait()
        chunk = self._chunks.popleft()
        self._carrier.give_back(self.ident, len(chunk))
        return chunk

    # -- writing --------------------------------------------------------------------------

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, as fast as the guest takes it; keep it unchanged until then.

        Raises: the error that ended the stream. Cancellation: an unknown part has been sent;
        the stream should be reset, the channel is unharmed.
        """
        rest = memoryview(data).cast("B")
        while rest:
            self._check_writable()
            self._writable.clear()
            sent = self._carrier.send_data(self.ident, rest)
            rest = rest[sent:]
            if rest and not sent:
                await self._writable.wait()
            await self._carrier.drain()

    async def write_message(self, message: msgspec.Struct) -> None:
        """Send one message. Raises: UsageError when it is too long; as `write` otherwise."""
        body = encode_message(message)
        await self.write(body)

    def write_eof(self) -> None:
        """Half-close: the guest reads an end. Idempotent."""
        if not self._sent_eof:
            self._sent_eof = True
            self._carrier.send_close(self.ident)

    def reset(self, code: str = "cancelled", message: str = "") -> None:
        """End both directions now, unless both have ended; what was not read is lost."""
        self._carrier.send_reset(self.ident, code, message)
        self._chunks.clear()
        self._taken.clear()
        self._got_eof = False
        self.fail(UsageError(ErrorCode.REQUEST_INVALID, f"{self._what()} was reset by this side"))

    def _check_writable(self) -> None:
        self._raise_failure()
        if self._sent_eof:
            raise UsageError(ErrorCode.REQUEST_INVALID, f"{self._what()} was closed for writing")

    # -- what the channel reports ---------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes arrived."""
        self._chunks.append(data)
        self._readable.set()

    def feed_eof(self) -> None:
        """The guest sends no more."""
        self._got_eof = True
        self._readable.set()

    def feed_credit(self) -> None:
        """The guest takes more."""
        self._writable.set()

    def fail(self, reason: SnapStartError) -> None:
        """The stream ended for a reason; the first one counts."""
        self._failure = self._failure or reason
        self._readable.set()
        self._writable.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            # The same error is raised to many readers: it must not collect their tracebacks.
            raise self._failure.with_traceback(None)

    def _what(self) -> str:
        return f"stream {self.ident} ({self.service}) of guest channel {self._name}"

    def _broken(self, problem: str) -> PeerError:
        return PeerError(ErrorCode.GUEST_PROTOCOL, f"{self._what()}: the guest {problem}")


def encode_message(message: msgspec.Struct) -> bytes:
    """A length-prefixed JSON message. Raises: UsageError when it is too long or not Unicode."""
    try:
        body = msgspec.json.encode(message)
    except UnicodeEncodeError as exc:
        raise UsageError(ErrorCode.REQUEST_INVALID, f"text is not valid Unicode: {exc}") from exc
    if len(body) > MESSAGE_MAX_BYTES:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"a message of {len(body)} bytes is over the guest's limit of {MESSAGE_MAX_BYTES}",
            hint="put the data into a file of the session instead",
        )
    return _LENGTH.pack(len(body)) + body
