"""How fast is a memory image sealed, against a plain copy of the same data?"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentd import native
from agentd.units import MIB, PAGE_BYTES

_RUN_BYTES = 256 * 1024
_BUFFER_BYTES = MIB


@contextmanager
def made_up_memory(size_bytes: int, data_bytes: int) -> Iterator[int]:
    """A memfd with runs of data between holes, in the proportion of a warm guest."""
    fd = os.memfd_create("bench", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size_bytes)
        runs = data_bytes // _RUN_BYTES
        stride = size_bytes // runs // PAGE_BYTES * PAGE_BYTES
        for number in range(runs):
            os.pwrite(fd, os.urandom(_RUN_BYTES), number * stride)
        yield fd
    finally:
        os.close(fd)


def plain_copy(src_fd: int, dst_fd: int, size_bytes: int) -> None:
    """Write the data of a sparse file, and nothing else, with the standard library."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    at = 0
    while at < size_bytes:
        try:
            start = os.lseek(src_fd, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(src_fd, start, os.SEEK_HOLE)
        while start < at:
            got = os.preadv(src_fd, [buffer[: min(_BUFFER_BYTES, at - start)]], start)
            os.pwrite(dst_fd, buffer[:got], start)
            start += got


def measure_sealing(rounds: int, directory: Path) -> tuple[list[float], list[float]]:
    """Milliseconds of sealing, of the plain copy, in turn; both end with fsync(2)."""
    size_bytes, data_bytes = 512 * MIB, 195 * MIB
    sealed, plain = [], []
    with made_up_memory(size_bytes, data_bytes) as memory:
        for _ in range(rounds):
            with tempfile.TemporaryFile(dir=directory) as file:
                begin = time.perf_counter()
                native.copy_memory(memory, file.fileno(), size_bytes)
                os.fsync(file.fileno())
                sealed.append((time.perf_counter() - begin) * 1e3)
            with tempfile.TemporaryFile(dir=directory) as file:
                begin = time.perf_counter()
                plain_copy(memory, file.fileno(), size_bytes)
                os.ftruncate(file.fileno(), size_bytes)
                os.fsync(file.fileno())
                plain.append((time.perf_counter() - begin) * 1e3)
    return sealed, plain
