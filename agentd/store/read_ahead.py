"""Have the disk read a file ahead of whoever copies it from its beginning to its end.

The kernel's own read-ahead asks for a piece when the one before it is used, so the copy and the
disk wait for each other. What is asked for in one go, beside the copy, arrives while that runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from agentd.units import MIB, PAGE_BYTES

# The kernel cuts each request to the device's own read-ahead, which is 128 KiB at least
# (mm/readahead.c, force_page_cache_ra).
REQUEST_BYTES: Final = 128 * 1024
# Of a longer file the rest comes by the kernel's own read-ahead: what waits in the page cache for
# its turn takes as much memory again.
MOST_BYTES: Final = 1024 * MIB
SAMPLE_PAGES: Final = 64
# Asking for what is there already costs a millisecond; a wait for the disk, a tenth of one.
_WARM: Final = 0.95
_libc: Final = ctypes.CDLL(None, use_errno=True)


# -- decisions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extent:
    """A part of a file that has data, in bytes."""

    start: int
    end: int


@dataclass(frozen=True)
class Reading:
    """How a file is read. cached_share: of a sample of its data, 0 to 1. ahead_bytes: asked for."""

    cached_share: float
    ahead_bytes: int

    @property
    def source(self) -> str:
        """Where most of it comes from: disk, cache."""
        return "disk" if self.cached_share < _WARM else "cache"

    @property
    def why(self) -> str:
        """For the log."""
        done = f"{self.ahead_bytes // MIB} MiB are read ahead" if self.ahead_bytes else "none is"
        return f"{self.cached_share:.0%} of the data is in the page cache: {done}"


def requests_of(extents: Sequence[Extent], most_bytes: int) -> tuple[tuple[int, int], ...]:
    """Offset and length of each request, ascending; nothing between the extents."""
    requests: list[tuple[int, int]] = []
    for extent in extents:
        for at in range(extent.start, extent.end, REQUEST_BYTES):
            length = min(REQUEST_BYTES, extent.end - at, most_bytes)
            if length <= 0:
                return tuple(requests)
            requests.append((at, length))
            most_bytes -= length
    return tuple(requests)


def sample_of(extents: Sequence[Extent]) -> tuple[int, ...]:
    """Offsets of at most SAMPLE_PAGES pages, evenly spread over all that the extents have."""
    pages = [at for one in extents for at in range(one.start, one.end, PAGE_BYTES)]
    return tuple(pages[:: -(-len(pages) // SAMPLE_PAGES)]) if pages else ()


# -- acts -----------------------------------------------------------------------------------------


@contextmanager
def read_ahead(fd: int) -> Iterator[Reading]:
    """Ask the disk for a file's data while the block copies it, unless it is in the page cache.

    What cannot be read is found by whoever copies it. Args: fd: borrowed; a regular file, of this
    user. Raises: OSError.
    """
    extents = data_extents(fd)
    cached_share = read_cached_share(fd, sample_of(extents))
    is_cold = Reading(cached_share, 0).source == "disk"
    requests = requests_of(extents, MOST_BYTES) if is_cold else ()
    is_over = threading.Event()
    thread = threading.Thread(target=_ask, args=(fd, requests, is_over), name="read-ahead")
    thread.start()
    try:
        yield Reading(cached_share, sum(length for _offset, length in requests))
    finally:
        is_over.set()
        thread.join()


def _ask(fd: int, requests: Sequence[tuple[int, int]], is_over: threading.Event) -> None:
    with contextlib.suppress(OSError):
        for offset, length in requests:
            if is_over.is_set():
                return
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)


def data_extents(fd: int) -> tuple[Extent, ...]:
    """Where a file has data, ascending. Raises: OSError."""
    extents: list[Extent] = []
    size_bytes, at = os.fstat(fd).st_size, 0
    while at < size_bytes:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        extents.append(Extent(start, at))
    return tuple(extents)


def read_cached_share(fd: int, sample: Sequence[int]) -> float:
    """How much of some pages of a file is in the page cache, 0 to 1; 1 of none.

    By mincore(2), which tells it to the owner of a file, and to whoever may write to it.
    Raises: OSError.
    """
    cached = sum(_is_cached(fd, offset) for offset in sample)
    return cached / len(sample) if sample else 1.0


def _is_cached(fd: int, offset: int) -> bool:
    there = ctypes.c_ubyte()
    size = ctypes.c_size_t(PAGE_BYTES)
    # Private, so that it may be writable without changing anything: ctypes wants that of a buffer.
    with mmap.mmap(fd, PAGE_BYTES, mmap.MAP_PRIVATE, offset=offset) as mapped:
        address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(mapped)))
        result = _libc.mincore(address, size, ctypes.byref(there))
        code = ctypes.get_errno()
    if result < 0:
        raise OSError(code, os.strerror(code))
    return bool(there.value & 1)
