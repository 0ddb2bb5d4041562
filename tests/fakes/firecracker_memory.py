"""Guest memory of the Firecracker stand-in: anonymous, mapped, or filled by a page server.

Imports nothing of the product: it runs in a process of its own.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
from typing import Any

MARK = b"stand-in guest "
STATE_AT = 4096  # what the guest is
SCRATCH_AT = 8192  # what it writes when it runs

_USERFAULTFD = 323  # x86-64
_UFFDIO_API, _UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
_API, _EVENT_REMOVE, _MISSING = 0xAA, 1 << 3, 1
_libc = ctypes.CDLL(None, use_errno=True)


class FaultError(Exception):
    """What is refused, in the real one's words."""


def os_error(exc: OSError) -> str:
    """As Rust's io::Error says it."""
    return f"{os.strerror(exc.errno or 0)} (os error {exc.errno})"


class Memory:
    """All RAM of one machine: one region."""

    def __init__(self) -> None:
        self.map: mmap.mmap | None = None
        self._kept: list[object] = []

    @property
    def size(self) -> int:
        return len(self.map) if self.map is not None else 0

    def boot(self, size: int, guest: dict[str, Any]) -> None:
        """Fresh memory with a guest in it."""
        self.map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        text = MARK + json.dumps(guest).encode() + b"\0"
        self.map[STATE_AT : STATE_AT + len(text)] = text
        self.map[size - 4096 : size - 4088] = b"the end\0"

    def save(self, path: str) -> None:
        """Every page, zeros too, over whatever the file holds; its length comes first."""
        assert self.map is not None
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if os.fstat(fd).st_size != self.size:
                os.ftruncate(fd, 0)
            os.ftruncate(fd, self.size)
            for at in range(0, self.size, 1 << 20):
                os.pwrite(fd, self.map[at : at + (1 << 20)], at)
            os.fsync(fd)
        finally:
            os.close(fd)

    def load_file(self, path: str, size: int) -> None:
        """A private mapping of a file that must be long enough."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise FaultError(f"Failed to load guest memory: {os_error(exc)}") from exc
        try:
            if os.fstat(fd).st_size < size:
                raise FaultError(
                    "Failed to restore guest memory: Error creating a memory region from a file: "
                    "The specified file offset and length is greater then file length"
                )
            self.map = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE)
        finally:
            os.close(fd)

    def load_uffd(self, path: str, size: int, *, stays: bool) -> None:
        """Hand a userfaultfd over anonymous memory to whoever listens. stays: since v1.12 the
        connection ends with the process, before it ended at once.
        """
        self.map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = ctypes.c_char.from_buffer(self.map)
        base = ctypes.addressof(view)
        uffd = _open_uffd(base, size)
        self._kept += [view, uffd]
        self._send(path, base, size, uffd, stays=stays)

    def pretend_uffd(self, path: str, image: str, size: int, *, stays: bool) -> None:
        """For a page server that serves no page: another descriptor, the memory mapped."""
        self.load_file(image, size)
        fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._send(path, 0x7F0000000000, size, fd, stays=stays)
        os.close(fd)

    def _send(self, path: str, base: int, size: int, fd: int, *, stays: bool) -> None:
        region = {"base_host_virt_addr": base, "size": size, "offset": 0}
        region |= {"page_size": 4096, "page_size_kib": 4096}
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(path)
            socket.send_fds(link, [json.dumps([region]).encode()], [fd])
        except OSError as exc:
            link.close()
            raise FaultError(f"Failed to connect to UDS Unix stream: {os_error(exc)}") from exc
        if stays:
            self._kept.append(link)
        else:
            link.close()

    # -- the guest ------------------------------------------------------------------------

    def guest(self) -> dict[str, Any] | None:
        """Who runs in it; None if there is nobody, as in memory that was not restored."""
        assert self.map is not None
        text = bytes(self.map[STATE_AT : STATE_AT + 4096]).partition(b"\0")[0]
        is_whole = self.map[self.size - 4096 : self.size - 4088] == b"the end\0"
        if not text.startswith(MARK) or not is_whole:
            return None
        found: dict[str, Any] = json.loads(text[len(MARK) :])
        return found

    def write(self, data: bytes) -> None:
        """As a guest that runs."""
        assert self.map is not None
        self.map[SCRATCH_AT : SCRATCH_AT + len(data)] = data


class _Api(ctypes.Structure):
    _fields_ = [("api", ctypes.c_uint64), ("features", ctypes.c_uint64), ("x", ctypes.c_uint64)]


class _Register(ctypes.Structure):
    _fields_ = [
        ("start", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("ioctls", ctypes.c_uint64),
    ]


def _open_uffd(base: int, size: int) -> int:
    fd = _libc.syscall(_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        exc = OSError(ctypes.get_errno(), "")
        raise FaultError(f"Failed to UFFD object: System error: {os_error(exc)}")
    api = _Api(_API, _EVENT_REMOVE, 0)
    register = _Register(base, size, _MISSING, 0)
    for number, order in ((_UFFDIO_API, api), (_UFFDIO_REGISTER, register)):
        if _libc.ioctl(fd, ctypes.c_ulong(number), ctypes.byref(order)) < 0:
            raise FaultError(f"userfaultfd: {os.strerror(ctypes.get_errno())}")
    return int(fd)
