"""A process that does to a page server whatever it is told, with real userfaultfds of its own.

As a program it obeys lines of JSON on stdin, `{"do": NAME, ...}`, each answered by one on stdout.
Tests use RawMonitor, which starts it: a monitor has to be a process of its own, because the page
server ends those it cannot serve.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any, Final, Self

PAGE: Final = 4096
EVENT_FORK: Final = 1 << 1
EVENT_REMOVE: Final = 1 << 3
MINOR_SHMEM: Final = 1 << 10
MISSING: Final = 1
WRITE_PROTECTED: Final = 2
NOBODY: Final = 65534

_ANSWER_S: Final = 30.0
_SYS_USERFAULTFD: Final = 323
_UFFDIO_API: Final = 0xC018AA3F
_UFFDIO_REGISTER: Final = 0xC020AA00
_UFFDIO_UNREGISTER: Final = 0x8010AA01
_UFFDIO_WRITEPROTECT: Final = 0xC018AA06
_MAP_SHARED, _MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_NORESERVE = 1, 2, 0x20, 0x4000
_READ_WRITE: Final = 3
_DONTNEED: Final = 4
_PR_SET_PDEATHSIG: Final = 1
_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.memcpy.restype = ctypes.c_void_p
_libc.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_libc.syscall.restype = ctypes.c_long


class MonitorDiedError(Exception):
    """The process is gone."""


class RawMonitor:
    """The process, seen from a test. Ended when the context is left."""

    def __init__(self) -> None:
        argv = [sys.executable, __file__]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **values: Any) -> Any:
        """Have it do something. Raises: MonitorDiedError, TimeoutError, OSError if it could not."""
        self.tell(do, **values)
        return self.answer()

    def tell(self, do: str, **values: Any) -> None:
        """Have it do something that may take long: answer() says how it went."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            raise MonitorDiedError from exc

    def answer(self, timeout_s: float = _ANSWER_S) -> Any:
        """What the oldest unanswered wish came to."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise TimeoutError
        line = self._process.stdout.readline()
        if not line:
            raise MonitorDiedError
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(*answer["error"])
        return answer["value"]

    def is_ended(self, timeout_s: float = _ANSWER_S) -> bool:
        """Whether it ends by itself within that time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """As if it crashed."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _check(result: int | None) -> int:
    if result is None or result in (-1, ctypes.c_void_p(-1).value):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class _Program:
    """What can be asked for: every public method."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._threads: list[threading.Thread] = []

    def map(self, pages: int) -> int:
        flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
        return _check(_libc.mmap(None, pages * PAGE, _READ_WRITE, flags, -1, 0))

    def map_file(self, fd: int, pages: int) -> int:
        return _check(_libc.mmap(None, pages * PAGE, _READ_WRITE, _MAP_PRIVATE, fd, 0))

    def unmap(self, address: int, pages: int) -> int:
        return _check(_libc.munmap(address, pages * PAGE))

    def uffd(self, features: int = EVENT_REMOVE, with_api: bool = True) -> int:
        flags = os.O_CLOEXEC | os.O_NONBLOCK
        fd = _check(_libc.syscall(_SYS_USERFAULTFD, flags))
        if with_api:
            fcntl.ioctl(fd, _UFFDIO_API, bytearray(struct.pack("QQQ", 0xAA, features, 0)))
        return fd

    def register(self, fd: int, address: int, pages: int, mode: int = MISSING) -> None:
        order = struct.pack("QQQQ", address, pages * PAGE, mode, 0)
        fcntl.ioctl(fd, _UFFDIO_REGISTER, bytearray(order))

    def protect(self, fd: int, address: int, pages: int) -> None:
        order = struct.pack("QQQ", address, pages * PAGE, 1)
        fcntl.ioctl(fd, _UFFDIO_WRITEPROTECT, bytearray(order))

    def unregister(self, fd: int, address: int, pages: int) -> None:
        fcntl.ioctl(fd, _UFFDIO_UNREGISTER, struct.pack("QQ", address, pages * PAGE))

    def make_blocking(self, fd: int) -> None:
        """For everybody who holds it."""
        os.set_blocking(fd, True)

    def borrow_uffd(self, pages: int) -> list[int]:
        """A userfaultfd of another process, with memory there: [fd, address]."""
        here, there = socket.socketpair()
        if os.fork() == 0:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            address, fd = self.map(pages), self.uffd()
            self.register(fd, address, pages)
            socket.send_fds(there, [str(address).encode()], [fd])
            signal.pause()
        there.close()
        text, fds, _, _ = socket.recv_fds(here, 64, 1)
        here.close()
        return [fds[0], int(text)]

    def file(self, kind: str) -> int:
        """A descriptor that is no userfaultfd."""
        if kind == "pipe":
            return os.pipe()[0]
        if kind == "socket":
            return socket.socketpair()[0].detach()
        if kind == "event":
            return os.eventfd(0)
        if kind == "pidfd":
            return os.pidfd_open(os.getpid())
        return os.open(kind, os.O_RDONLY)

    def memfd(self, content: str, pages: int, is_sealed: bool = True) -> int:
        """Args: content: base64; pages: the length, a hole behind the content."""
        fd = os.memfd_create("image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(fd, base64.b64decode(content))
        os.ftruncate(fd, pages * PAGE)
        if is_sealed:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return fd

    def close(self, fd: int) -> None:
        if fd in self._sockets:
            self._sockets.pop(fd).close()
        else:
            os.close(fd)

    def connect(self, path: str) -> int:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        self._sockets[sock.fileno()] = sock
        return sock.fileno()

    def send(self, sock: int, text: str, fds: list[int], part: int | None = None) -> None:
        """Args: part: bytes to send at a time, the descriptors with the first."""
        data = text.encode()
        size = part or max(len(data), 1)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            if start == 0 and fds:
                socket.send_fds(self._sockets[sock], [piece], fds)
            else:
                self._sockets[sock].sendall(piece)

    def is_hung_up(self, sock: int) -> bool:
        """Whether the other side closes the connection."""
        self._sockets[sock].settimeout(_ANSWER_S)
        try:
            return self._sockets[sock].recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def read(self, address: int, pages: int) -> str:
        """What memory holds, in base64; waits until it is there."""
        buffer = ctypes.create_string_buffer(pages * PAGE)
        _libc.memcpy(buffer, address, pages * PAGE)
        return base64.b64encode(buffer.raw).decode()

    def touch_later(self, address: int) -> None:
        """Ask for a page in a thread, which may wait for ever."""
        self._run(lambda: _libc.memcpy(ctypes.create_string_buffer(1), address, 1))

    def write_later(self, address: int) -> None:
        self._run(lambda: _libc.memcpy(address, b"w", 1))

    def remove(self, address: int, pages: int) -> None:
        _check(_libc.madvise(address, pages * PAGE, _DONTNEED))

    def flood(self, address: int, pages: int, times: int, threads: int) -> None:
        """Give every page back again and again, each by itself, from several threads at once."""

        def remove_all() -> None:
            for i in range(times):
                _libc.madvise(address + i % pages * PAGE, PAGE, _DONTNEED)

        for _ in range(threads):
            self._run(remove_all)
        for thread in self._threads:
            thread.join()

    def fork(self, times: int) -> None:
        """Make children in a thread: each fork waits for whoever reads the userfaultfd."""

        def fork_all() -> None:
            for _ in range(times):
                if os.fork() == 0:
                    os._exit(0)
                os.wait()

        self._run(fork_all)

    def become_nobody(self) -> None:
        os.setuid(NOBODY)

    def _run(self, work: Any) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()


def _obey(program: _Program, line: str) -> dict[str, Any]:
    wish = json.loads(line)
    try:
        return {"value": getattr(program, wish.pop("do"))(**wish)}
    except OSError as exc:
        return {"error": [exc.errno, str(exc)]}


def main() -> None:
    program = _Program()
    for line in sys.stdin:
        print(json.dumps(_obey(program, line)), flush=True)
    os._exit(0)  # threads may wait for memory that nobody brings


if __name__ == "__main__":
    main()
