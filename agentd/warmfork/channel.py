"""Carry streams to one guest over its channel (host side of docs/guest-protocol.md, section 2).

The channel owns the socket and one reader task. Writes go straight to the transport, a whole frame
at a time, so that a cancelled writer leaves no half frame behind. The first failure, whichever it
is, ends the channel once: every stream gets the same error, the socket is closed at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Protocol, Self

import msgspec

from agentd.errors import (
    ConfigError,
    ErrorCode,
    InvariantError,
    PeerError,
    SnapStartError,
    UsageError,
)
from agentd.units import KIB, MIB
from agentd.warmfork.frames import (
    CREDIT_BYTES,
    EPOCH_BYTES,
    PAYLOAD_MAX_BYTES,
    STREAMS_MAX,
    ProtocolError,
    Synchroniser,
    greeting,
)
from agentd.warmfork.mux import Credited, Event, Finished, HostMux, Received
from agentd.warmfork.refusals import refusal
from agentd.warmfork.stream import Stream

_READ_BYTES: Final = 256 * KIB
# Credit bounds what streams can have queued; beyond it the guest has stopped reading altogether
# while we keep answering it.
_QUEUED_MAX_BYTES: Final = STREAMS_MAX * CREDIT_BYTES + 16 * MIB
_PATH_MAX_BYTES: Final = 107  # unix(7): sun_path has 108 with the NUL
_SILENT: Final = "it takes connections, but the guest does not answer as one"
_FIRST_PAUSE_S: Final = 0.001
_LAST_PAUSE_S: Final = 0.02


class Handover(Protocol):
    """A synchronised connection: `agentd.vmm.vmm.Connected`, from which nothing here imports."""

    @property
    def sock(self) -> socket.socket:
        """The connected socket."""

    @property
    def leftover(self) -> bytes:
        """What was read from it already, but not used."""

    @property
    def next_stream(self) -> int:
        """The first stream id that was not used yet."""


class GuestChannel:
    """One host connection to one guest. Made by `connect` or `over`; the owner must `close` it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mux: HostMux, name: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._mux = mux
        self._name = name
        self._streams: dict[int, Stream] = {}
        self._opened: Counter[str] = Counter()
        self._slot_freed = asyncio.Event()
        self._closed: asyncio.Future[SnapStartError] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = f"closed: {self._closed.result()}" if self._closed.done() else "open"
        return f"<GuestChannel {self._name} {len(self._streams)} streams {state}>"

    # -- making one -----------------------------------------------------------------------

    @classmethod
    async def connect(
        cls,
        path: Path,
        *,
        deadline_s: float,
        prelude: bytes = b"",
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> GuestChannel:
        """Connect to the VMM's socket, wait for the guest to answer.

        While nothing listens, or the VMM hangs up, it is tried again, after pauses that grow from
        1 ms to 20 ms: a listening socket cannot be waited for.
        Args: path: at most 107 bytes. deadline_s: seconds from the call. prelude: what the VMM
        has to be told first; its answer goes with what precedes the guest's.
        Raises: PeerError(GUEST_NOT_READY) at the deadline; ConfigError when not permitted.
        Cancellation: closes the socket.
        """
        if len(os.fsencode(path)) > _PATH_MAX_BYTES:
            # uvloop would cut it and say that there is no such file.
            raise InvariantError(f"socket path {str(path)!r} is over {_PATH_MAX_BYTES} bytes")
        problem = _SILENT
        try:
            async with asyncio.timeout(deadline_s):
                for pause_s in _pauses():
                    problem = _SILENT
                    try:
                        return await cls._attempt(path, prelude, random_bytes(EPOCH_BYTES))
                    except (FileNotFoundError, ConnectionError, BlockingIOError) as exc:
                        problem = str(exc)
                    await asyncio.sleep(pause_s)
        except TimeoutError as exc:
            raise PeerError(
                ErrorCode.GUEST_NOT_READY,
                f"connecting to guest channel {str(path)!r}: no answer in {deadline_s:g} s "
                f"(last problem: {problem})",
                hint="look at the guest's console",
            ) from exc
        except PermissionError as exc:
            message = f"connecting to guest channel {str(path)!r}: {exc}"
            raise ConfigError(ErrorCode.PERMISSION_DENIED, message) from exc
        except OSError as exc:
            message = f"connecting to guest channel {str(path)!r}: {exc}"
            raise PeerError(ErrorCode.GUEST_NOT_READY, message) from exc
        raise InvariantError("pauses between attempts ended")

    @classmethod
    async def _attempt(cls, path: Path, prelude: bytes, epoch: bytes) -> GuestChannel:
        reader, writer = await asyncio.open_unix_connection(path, limit=_READ_BYTES)
        try:
            writer.write(prelude + greeting(epoch))
            synchroniser = Synchroniser(epoch)
            while (rest := synchroniser.feed(await _read_some(reader))) is None:
                pass
            return cls(reader, writer, HostMux(), path.name)._start(rest)
        except BaseException:
            writer.transport.abort()
            raise

    @classmethod
    async def over(cls, connected: Handover, *, name: str) -> GuestChannel:
        """Take over a connection that is synchronised already.

        Args: connected: its socket is owned by the channel from the call on, whatever happens.
        The streams before `next_stream` have ended; they were `inject`, and count as opened.
        name: for messages, such as the VM's id.
        Raises: PeerError when what was already read breaks the protocol.
        Cancellation: closes the socket.
        """
        sock = connected.sock
        try:
            mux = HostMux(connected.next_stream)
            sock.setblocking(False)
            reader, writer = await _wrap(sock)
        except BaseException:
            sock.close()
            raise
        channel = cls(reader, writer, mux, name)
        if connected.next_stream > 1:
            channel._opened["inject"] = connected.next_stream // 2
        return channel._start(connected.leftover)

    def _start(self, rest: bytes) -> Self:
        self._take(rest)
        if self._closed.done():
            raise self._closed.result()
        self._task = asyncio.create_task(self._receive(), name=f"guest-channel-{self._name}")
        return self

    # -- using it -------------------------------------------------------------------------

    @property
    def closed(self) -> asyncio.Future[SnapStartError]:
        """Has the reason, as a result, once the channel is over; cancelling it does no harm."""
        return asyncio.shield(self._closed)

    @property
    def opened(self) -> Mapping[str, int]:
        """How many streams of each service this host has ever opened on the connection."""
        return MappingProxyType(self._opened)

    async def open(self, service: str, **members: Any) -> Stream:
        """Open a stream; waits while as many are open as the guest allows.

        Returns: a stream owned by the caller, best used in `async with`.
        Raises: the reason when the channel is over; UsageError when the members are too long.
        Cancellation: opens nothing, or resets what it opened.
        """
        params = _encode_open(service, members)
        self._raise_if_closed()
        while self._mux.is_full:
            self._slot_freed.clear()
            await self._slot_freed.wait()
            self._raise_if_closed()
        self._opened[service] += 1
        ident, frame = self._mux.open(params)
        stream = self._streams[ident] = Stream(self, ident, service, self._name)
        self._write(frame)
        try:
            await self.drain()
        except BaseException:
            stream.reset()
            raise
        return stream

    async def close(self) -> None:
        """End the channel, its streams, its task; idempotent.

        Cancellation: everything is released at once all the same.
        """
        self._fail(UsageError(ErrorCode.SESSION_ENDED, f"guest channel {self._name} was closed"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        with suppress(OSError):
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # -- what streams need ----------------------------------------------------------------

    def send_data(self, stream: int, data: memoryview) -> int:
        """See `stream.Carrier`; the stream is live, or its failure would have been raised."""
        frame, size_bytes = self._mux.send(stream, data)
        self._write(frame)
        return size_bytes

    def send_close(self, stream: int) -> None:
        """See `stream.Carrier`."""
        self._write(self._mux.close(stream))
        self._forget_if_ended(stream)

    def send_reset(self, stream: int, code: str, message: str) -> None:
        """See `stream.Carrier`."""
        self._write(self._mux.reset(stream, code, message))
        self._forget_if_ended(stream)

    def give_back(self, stream: int, size_bytes: int) -> None:
        """See `stream.Carrier`."""
        self._write(self._mux.consumed(stream, size_bytes))

    async def drain(self) -> None:
        """Wait until the socket takes more. Raises: the reason when the channel is over."""
        self._raise_if_closed()
        try:
            await self._writer.drain()
        except OSError as exc:
            self._fail(self._lost(str(exc)))
        self._raise_if_closed()

    def _write(self, frame: bytes) -> None:
        if not frame or self._closed.done():
            return
        self._writer.write(frame)
        queued_bytes = self._writer.transport.get_write_buffer_size()
        if queued_bytes > _QUEUED_MAX_BYTES:
            self._fail(self._broken(f"the guest left {queued_bytes} bytes unread"))

    # -- receiving ------------------------------------------------------------------------

    async def _receive(self) -> None:
        try:
            while not self._closed.done():
                self._take(await _read_some(self._reader))
        except OSError as exc:
            self._fail(self._lost(str(exc)))
        except Exception as exc:
            defect = InvariantError(f"guest channel {self._name}: reading failed: {exc!r}")
            defect.__cause__ = exc
            self._fail(defect)
        finally:
            self._fail(self._lost("the reader was cancelled"))

    def _take(self, data: bytes) -> None:
        try:
            for event in self._mux.receive(data):
                self._dispatch(event)
        except ProtocolError as exc:
            self._fail(self._broken(f"the guest broke the protocol: {exc}"))

    def _dispatch(self, event: Event) -> None:
        stream = self._streams.get(event.stream)
        if stream is None:
            return
        if isinstance(event, Received):
            stream.feed(event.data)
        elif isinstance(event, Credited):
            stream.feed_credit()
        elif isinstance(event, Finished):
            stream.feed_eof()
            self._forget_if_ended(event.stream)
        else:
            what = f"{stream.service} on guest channel {self._name}"
            stream.fail(refusal(what, event.code, event.message))
            self._forget_if_ended(event.stream)

    def _forget_if_ended(self, stream: int) -> None:
        if not self._mux.is_live(stream) and self._streams.pop(stream, None) is not None:
            self._slot_freed.set()

    # -- ending ---------------------------------------------------------------------------

    def _fail(self, reason: SnapStartError) -> None:
        if self._closed.done():
            return
        self._closed.set_result(reason)
        for stream in self._streams.values():
            stream.fail(reason)
        self._streams.clear()
        self._slot_freed.set()
        self._writer.transport.abort()

    def _raise_if_closed(self) -> None:
        if self._closed.done():
            raise self._closed.result().with_traceback(None)

    def _lost(self, problem: str) -> PeerError:
        return PeerError(
            ErrorCode.VMM_FAILED,
            f"guest channel {self._name} was lost: {problem}",
            hint="connect again if the VM still runs",
        )

    def _broken(self, problem: str) -> PeerError:
        return PeerError(
            ErrorCode.GUEST_PROTOCOL,
            f"guest channel {self._name}: {problem}",
            hint="end the session: its guest cannot be trusted",
        )


async def _read_some(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(_READ_BYTES)
    if not data:
        raise ConnectionResetError("the VMM closed the connection")
    return data


async def _wrap(sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    inode = os.fstat(sock.fileno()).st_ino
    streams = await asyncio.open_unix_connection(sock=sock, limit=_READ_BYTES)
    if not _is_still(sock, inode):
        # Lost in this very turn, and closed by uvloop, which did not tell the object: that would
        # close the number again when it is collected; by then it may be somebody else's.
        sock.detach()
    return streams


def _is_still(sock: socket.socket, inode: int) -> bool:
    try:
        return os.fstat(sock.fileno()).st_ino == inode
    except OSError:
        return False


def _pauses() -> Iterator[float]:
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(pause_s * 1.5, _LAST_PAUSE_S)


def _encode_open(service: str, members: Mapping[str, Any]) -> bytes:
    try:
        params = msgspec.json.encode({**members, "service": service})
    except UnicodeEncodeError as exc:
        raise UsageError(ErrorCode.REQUEST_INVALID, f"text is not valid Unicode: {exc}") from exc
    if len(params) > PAYLOAD_MAX_BYTES:
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"opening {service!r}: {len(params)} bytes of members exceed {PAYLOAD_MAX_BYTES}",
        )
    return params
