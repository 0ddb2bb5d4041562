"""A page server for trying out the stand-in machine: right, or wrong in one way."""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PAGE: Final = 4096
_MESSAGE_BYTES: Final = 65536
_EVENT: Final = struct.Struct("=B7xQQQ")
_PAGEFAULT, _REMOVE = 0x12, 0x15
_UFFDIO_COPY: Final = 0xC028AA03
_UFFDIO_WAKE: Final = 0x8010AA02
_COPY: Final = struct.Struct("=QQQQq")
_RANGE: Final = struct.Struct("=QQ")

# From the number of a page and what it has to hold to what is served.
Mistake = Callable[[int, bytes], bytes]


@dataclass
class Received:
    """A hand-over as it came. pieces: the text of each message. fds: owned; fds_in: how many came
    with each piece.
    """

    pieces: list[bytes] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    fds_in: list[int] = field(default_factory=list)

    @property
    def said(self) -> Any:
        return json.loads(b"".join(self.pieces))

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


class HandOverSocket:
    """Listens for one machine. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self.link: socket.socket | None = None
        self.received = Received()

    async def receive(self, *, fds: int = 1) -> Received:
        """Take pieces until the text is whole and `fds` descriptors have come."""
        loop = asyncio.get_running_loop()
        self.link, _ = await loop.sock_accept(self._listener)
        self.link.setblocking(False)
        received = self.received
        while len(received.fds) < fds or not _is_whole(b"".join(received.pieces)):
            await readable(self.link.fileno())
            text, came = _receive(self.link)
            received.pieces.append(text)
            received.fds += came
            received.fds_in.append(len(came))
            assert text, "it hung up in the middle"
        return received

    async def has_ended(self) -> bool:
        """Whether the machine closed the connection."""
        assert self.link is not None
        try:
            return self.link.recv(1) == b""
        except BlockingIOError:
            return False

    def __enter__(self) -> HandOverSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.received.close()
        self._listener.close()
        if self.link is not None:
            self.link.close()


class PageServer:
    """Serves the machine that handed over. It takes the userfaultfd. Use as a context manager."""

    def __init__(
        self,
        received: Received,
        image: bytes,
        *,
        mistake: Mistake = lambda _, page: page,
        forgets_removals: bool = False,
    ) -> None:
        self._uffd = received.fds.pop(0)
        self._regions = received.said
        self._image = image
        self._mistake = mistake
        self._forgets_removals = forgets_removals
        self._removed: set[int] = set()
        self._waiting: list[int] = []

    def __enter__(self) -> PageServer:
        asyncio.get_running_loop().add_reader(self._uffd, self._turn)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._uffd)
        os.close(self._uffd)

    def _turn(self) -> None:
        """Removals first, whatever the order of events."""
        with contextlib.suppress(BlockingIOError):
            events = os.read(self._uffd, 64 * _EVENT.size)
            for kind, first, second, _ in _EVENT.iter_unpack(events):
                if kind == _REMOVE and not self._forgets_removals:
                    self._removed |= {self._page_at(at) for at in range(first, second, PAGE)}
                elif kind == _PAGEFAULT:
                    self._waiting.append(second & ~(PAGE - 1))
        self._waiting = [address for address in self._waiting if not self._serve(address)]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)

    def _page_at(self, address: int) -> int:
        for region in self._regions:
            at = address - region["base_host_virt_addr"]
            if 0 <= at < region["size"]:
                return int(region["offset"] + at) // PAGE
        raise AssertionError(f"a fault at {address:#x}, outside of every region")

    def _serve(self, address: int) -> bool:
        """Returns: False if events have to be read first."""
        page = self._page_at(address)
        right = bytes(PAGE) if page in self._removed else self._image[page * PAGE :][:PAGE]
        source = ctypes.create_string_buffer(self._mistake(page, right), PAGE)
        order = _COPY.pack(address, ctypes.addressof(source), PAGE, 0, 0)
        try:
            fcntl.ioctl(self._uffd, _UFFDIO_COPY, bytearray(order))
        except OSError as exc:
            if exc.errno == errno.EEXIST:
                fcntl.ioctl(self._uffd, _UFFDIO_WAKE, bytearray(_RANGE.pack(address, PAGE)))
            elif exc.errno == errno.EAGAIN:
                return False
            elif exc.errno != errno.ESRCH:
                raise
        return True


def _is_whole(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _receive(link: socket.socket) -> tuple[bytes, list[int]]:
    space = socket.CMSG_SPACE(8 * 4)
    text, items, _, _ = link.recvmsg(_MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _, _, data in items:
        fds.frombytes(data)
    return text, list(fds)


async def readable(fd: int) -> None:
    """Wait until it is."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
