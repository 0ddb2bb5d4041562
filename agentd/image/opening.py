"""Open what somebody else named, without following a link on the way.

An image may lie in a directory of whoever asks for a template, who can put a link in the place of
a file, or of a directory, at any moment, also after the file was checked. The daemon opens it with
its own rights, so a link could lead to anything. So each component is opened relative to the one
before, never following (path_resolution(7)): what openat2(2) does with RESOLVE_NO_SYMLINKS.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

_STEP: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO in the place of a file must not make the open wait for a writer.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def open_regular(path: Path) -> int:
    """A regular file, for reading, no component of whose path is a link; owned by the caller.

    path: absolute. Raises: OSError, ELOOP for a link or for what is no regular file.
    """
    with ExitStack() as steps:
        at: int | None = None
        *directories, name = path.parts
        for part in directories:
            at = os.open(part, _STEP, dir_fd=at)
            steps.callback(os.close, at)
        fd = os.open(name, _FILE, dir_fd=at)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.ELOOP, "it is no regular file", str(path))


@contextmanager
def opened_regular(path: Path) -> Iterator[int]:
    """Hold such a file open. Raises: as `open_regular`."""
    fd = open_regular(path)
    try:
        yield fd
    finally:
        os.close(fd)
