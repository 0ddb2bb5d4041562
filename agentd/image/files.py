"""Files that appear whole or not at all.

A build works in a staging directory of its own, on the file system of the cache, and renames what
it finished. Each staging directory is held with flock(2) by its builder: the lock of a builder that
was killed is gone with it, so the next builder can tell its leftovers from work in progress. A lock
on the parent covers "make and lock" against "find unlocked and delete".
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode, PermanentError, SnapStartError, TransientError
from agentd.image.opening import opened_regular

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Translate the OSErrors of a block. `what` reads as "writing the image in '/x'"."""
    try:
        yield
    except OSError as exc:
        raise _translate(exc, what) from exc


def _translate(exc: OSError, what: str) -> SnapStartError:
    message = f"{what}: {exc.strerror or exc} ({exc.filename!r})"
    if exc.errno in _FULL:
        hint = "free some space, or choose another cache directory"
        return TransientError(ErrorCode.DISK_FULL, message, hint=hint)
    if exc.errno in _DENIED:
        hint = "make it accessible to this user, or choose another cache directory"
        return ConfigError(ErrorCode.PERMISSION_DENIED, message, hint=hint)
    return PermanentError(ErrorCode.IMAGE_INVALID, message)


class HashingFile:
    """A new file that is hashed while it is written; flushed to the disk when closed well."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if failure is None:
                self._file.flush()
                os.fsync(self._file.fileno())

    @property
    def sha256(self) -> str:
        """Digest of what was written so far."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Append; the whole of `data` or an OSError."""
        self._file.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)


def hash_file(path: Path) -> str:
    """The sha256 of a file's content."""
    with opened_regular(path) as fd, open(fd, "rb", closefd=False) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def staging_dir(cache_dir: Path) -> Iterator[Path]:
    """A directory for unfinished work, removed at the end; sweeps those of killed builders.

    Raises: OSError if the cache is not writable.
    """
    parent = cache_dir / "staging"
    parent.mkdir(parents=True, exist_ok=True)
    with _locked(parent):
        _sweep(parent)
        path = Path(tempfile.mkdtemp(dir=parent))
        fd = _lock_fd(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def _sweep(parent: Path) -> None:
    for path in parent.iterdir():
        with suppress(OSError):
            fd = _lock_fd(path)
            try:
                shutil.rmtree(path)
            finally:
                os.close(fd)


def _lock_fd(path: Path, *, wait: bool = False) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = _lock_fd(path, wait=True)
    try:
        yield
    finally:
        os.close(fd)
