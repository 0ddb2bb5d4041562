"""Open, write, check the files of a template relative to its directory.

Every path is one component below an open directory, and no symbolic link is ever followed: what was
checked is what is used, whatever happens to the names in between.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MANIFEST: Final = "manifest.json"
MEMORY: Final = "memory"
DEVICE_STATE: Final = "device_state"
DIGEST: Final = "memory.sha256"
# What its first forks touched: files of the page server.
PAGES: Final = "pages"
KNOWN: Final = frozenset({MANIFEST, MEMORY, DEVICE_STATE, DIGEST, PAGES})

_OPEN_DIR: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO put in the place of a file must not make the open wait for a writer.
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class UntrustedFileError(Exception):
    """A file is not what the store made; the text says which and why."""


@contextmanager
def opened_dir(name: str, dir_fd: int | None = None) -> Iterator[int]:
    """Hold a directory open. Raises: OSError, UntrustedFileError."""
    fd = _open_checked(name, _OPEN_DIR, dir_fd)
    try:
        require_private(name, os.fstat(fd))
        yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_file(name: str, dir_fd: int) -> Iterator[tuple[int, os.stat_result]]:
    """Hold a regular file open for reading. Raises: OSError, UntrustedFileError."""
    fd = _open_checked(name, _OPEN_FILE, dir_fd)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise UntrustedFileError(f"{name} is not a regular file")
        require_private(name, status)
        yield fd, status
    finally:
        os.close(fd)


def _open_checked(name: str, flags: int, dir_fd: int | None) -> int:
    try:
        return os.open(name, flags, dir_fd=dir_fd)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise UntrustedFileError(f"{name} is a symbolic link") from exc
        if exc.errno == errno.ENOTDIR:
            raise UntrustedFileError(f"{name} is not a directory") from exc
        raise


def require_private(name: str, status: os.stat_result) -> None:
    """Refuse what another user owns or may write. Raises: UntrustedFileError."""
    if status.st_uid != os.geteuid():
        raise UntrustedFileError(
            f"{name} belongs to uid {status.st_uid}, not to uid {os.geteuid()}"
        )
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise UntrustedFileError(
            f"{name} has mode {stat.S_IMODE(status.st_mode):o}: others may write it"
        )


@contextmanager
def created_file(name: str, dir_fd: int) -> Iterator[int]:
    """Hold a new file open for writing; on success it is on disk, and only there: not in the page
    cache, because its content lives in a memfd, and once is enough. Raises: OSError.
    """
    fd = os.open(name, _CREATE, 0o600, dir_fd=dir_fd)
    try:
        yield fd
        os.fsync(fd)
        drop_cache(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte at the file's position. Raises: OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def read_all(fd: int, size_bytes: int) -> bytes:
    """Read up to size_bytes from the start of a file. Raises: OSError."""
    parts: list[bytes] = []
    at = 0
    while at < size_bytes and (part := os.pread(fd, size_bytes - at, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def drop_cache(fd: int) -> None:
    """Take what is on disk of a file out of the page cache. Raises: OSError."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def allocated_bytes(dir_fd: int) -> int:
    """The disk space that the files of a directory take. Raises: OSError."""
    with os.scandir(dir_fd) as entries:
        return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)


def free_bytes(dir_fd: int) -> int:
    """The disk space that is left where a directory is. Raises: OSError."""
    space = os.fstatvfs(dir_fd)
    return space.f_bavail * space.f_frsize
