"""Read ahead what a template's forks touch first, where they map its file.

A fork on a mapped file that is not in the page cache waits for the disk at every fault. What forks
touch is nearly the same each time: it is recorded from the page tables of the first ones and asked
for in one go when another starts, while its monitor still starts.

Every call blocks and may be made from any thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.store import files
from agentd.store.read_ahead_plan import (
    agreed_mask,
    is_cold,
    requests_of,
    runs_of,
    sample_of,
    touched_mask,
)
from agentd.units import PAGE_BYTES
from agentd.wire import read_ahead as wire
from agentd.wire.manifest import Manifest
from agentd.wire.read_ahead import PageRun, ReadAhead

NAME: Final = files.READ_AHEAD
_HALF_WRITTEN: Final = f"{NAME}.new"
_ENTRY_BYTES: Final = 8
_libc: Final = ctypes.CDLL(None, use_errno=True)
_PROC: Final = Path("/proc")


# -- recording ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mapping:
    """A part of a file in a process's memory; in pages."""

    address: int
    pages: int
    file_page: int


def touched_by(pid: int, memory_fd: int, proc: Path = _PROC) -> bytes:
    """The pages of a template's memory that one of its forks has touched so far, as a mask.

    Args: memory_fd: borrowed; the file or memfd that the fork maps. Raises: OSError
    (FileNotFoundError, ProcessLookupError: it has ended, or does not map the file;
    PermissionError: it is somebody else's).
    """
    status = os.fstat(memory_fd)
    mask = bytearray(-(-status.st_size // PAGE_BYTES))
    with (proc / str(pid) / "pagemap").open("rb", buffering=0) as pagemap:
        mappings = list(_mappings(proc / str(pid) / "maps", status))
        if not mappings:  # as of a process that is just ending: nothing must not look like a record
            raise ProcessLookupError(errno.ESRCH, f"process {pid} does not map the memory")
        for mapping in mappings:
            touched = touched_mask(_read_entries(pagemap.fileno(), mapping))
            count = max(0, min(mapping.pages, len(mask) - mapping.file_page))
            mask[mapping.file_page : mapping.file_page + count] = touched[:count]
    return bytes(mask)


def _mappings(maps: Path, status: os.stat_result) -> Iterator[_Mapping]:
    """Where a file is mapped, by /proc/PID/maps (proc(5))."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    for line in maps.read_text().splitlines():
        addresses, _permissions, offset, its_device, inode = line.split(maxsplit=5)[:5]
        if (its_device, inode) == (device, str(status.st_ino)):
            start, end = (int(word, 16) for word in addresses.split("-"))
            yield _Mapping(start, (end - start) // PAGE_BYTES, int(offset, 16) // PAGE_BYTES)


def _read_entries(fd: int, mapping: _Mapping) -> bytes:
    size = mapping.pages * _ENTRY_BYTES
    at = mapping.address // PAGE_BYTES * _ENTRY_BYTES
    parts: list[bytes] = []
    while size > 0:
        part = os.pread(fd, size, at)
        if not part:
            raise ProcessLookupError(errno.ESRCH, "the process has ended")
        parts.append(part)
        at, size = at + len(part), size - len(part)
    return b"".join(parts)


def agree(manifest: Manifest, records: Sequence[bytes]) -> ReadAhead:
    """What is read ahead of a template after the records of some forks."""
    return ReadAhead(
        format_version=wire.FORMAT_VERSION,
        template_id=manifest.template_id,
        size_bytes=manifest.memory.size_bytes,
        forks=len(records),
        runs=runs_of(agreed_mask(records)),
    )


# -- keeping --------------------------------------------------------------------------------------


def keep(dir_fd: int, read_ahead: ReadAhead) -> None:
    """Write a list into an open directory, whole or not at all. One writer at a time.

    Raises: OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_HALF_WRITTEN, dir_fd=dir_fd)
    try:
        with files.created_file(_HALF_WRITTEN, dir_fd) as fd:
            files.write_all(fd, wire.encode(read_ahead))
        os.rename(_HALF_WRITTEN, NAME, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(_HALF_WRITTEN, dir_fd=dir_fd)
        raise
    os.fsync(dir_fd)


def find(dir_fd: int, manifest: Manifest) -> ReadAhead | None:
    """The list of a template; None if there is none, or what is there is not of it, or damaged.

    Raises: OSError other than that there is no such file.
    """
    try:
        with files.opened_file(NAME, dir_fd) as (fd, status):
            data = files.read_all(fd, min(status.st_size, wire.MAX_BYTES))
        read_ahead = wire.decode(data)
    except (FileNotFoundError, files.UntrustedFileError, wire.ReadAheadDamagedError):
        return None
    expected = (manifest.template_id, manifest.memory.size_bytes)
    return read_ahead if (read_ahead.template_id, read_ahead.size_bytes) == expected else None


# -- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Warmed:
    """What reading ahead did.

    resident_share: of a sample, 0 to 1, before. asked_pages: 0 if they were in memory already.
    """

    resident_share: float
    asked_pages: int

    @property
    def why(self) -> str:
        """For the log."""
        cached = f"{self.resident_share:.0%} of the pages that forks touch first are in memory"
        return f"{cached}: {f'{self.asked_pages} read ahead' if self.asked_pages else 'none read'}"


def warm(memory_fd: int, read_ahead: ReadAhead) -> Warmed:
    """Ask the disk for what forks touch first, unless it is in memory, without waiting for it.

    Start it together with a fork's monitor: what is asked for arrives while that starts, and a
    fault on a page under way waits for that page alone. What cannot be read is found by whoever
    needs it.
    Args: memory_fd: borrowed; a regular file. Raises: OSError.
    """
    share = resident_share(memory_fd, read_ahead.runs)
    if not is_cold(share):
        return Warmed(share, 0)
    asked = 0
    for offset, length in requests_of(read_ahead.runs, os.fstat(memory_fd).st_size):
        os.posix_fadvise(memory_fd, offset, length, os.POSIX_FADV_WILLNEED)
        asked += -(-length // PAGE_BYTES)
    return Warmed(share, asked)


def resident_share(memory_fd: int, runs: Sequence[PageRun]) -> float:
    """How much of a sample of the runs is in the page cache, 0 to 1; 1 of nothing.

    By mincore(2), which tells it to the owner of a file, and to whoever may write to it.
    Raises: OSError.
    """
    pages = os.fstat(memory_fd).st_size // PAGE_BYTES
    sample = [page for page in sample_of(runs) if page < pages]
    return sum(_is_resident(memory_fd, page) for page in sample) / len(sample) if sample else 1.0


def _is_resident(memory_fd: int, page: int) -> bool:
    there = ctypes.c_ubyte()
    size = ctypes.c_size_t(PAGE_BYTES)
    # Private, so that it may be writable without changing anything: ctypes wants that of a buffer.
    with mmap.mmap(memory_fd, PAGE_BYTES, mmap.MAP_PRIVATE, offset=page * PAGE_BYTES) as mapped:
        address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(mapped)))
        result = _libc.mincore(address, size, ctypes.byref(there))
        code = ctypes.get_errno()
    if result < 0:
        raise OSError(code, os.strerror(code))
    return bool(there.value & 1)
