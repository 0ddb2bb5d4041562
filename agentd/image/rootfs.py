"""Reading a directory of the user's into a file tree."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agentd.errors import ErrorCode, UsageError
from agentd.image.tree import Entry, Tree


def read_rootfs(root: Path) -> Tree:
    """Read a directory whole; files of the reading user become root's.

    The content is held in memory, as it will be in the guest's. Device nodes and sockets are left
    out: the guest mounts a devtmpfs.
    Raises: UsageError if it is not a directory; OSError if something in it cannot be read.
    """
    if not root.is_dir():
        raise UsageError(
            ErrorCode.REQUEST_INVALID,
            f"reading the rootfs {str(root)!r}: not a directory",
            hint="give the directory that holds the guest's usr, etc and so on",
        )
    tree = Tree()
    for path, entry in _walk(root, ""):
        tree.add(path, entry)
    return tree


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, Entry]]:
    """Links first, so that the tree can resolve what is reached through them."""
    with os.scandir(folder) as items:
        found = sorted(items, key=lambda item: (not item.is_symlink(), item.name))
    for item in found:
        entry = _entry_of(item)
        if entry is not None:
            yield prefix + item.name, entry
            if entry.is_dir:
                yield from _walk(Path(item.path), f"{prefix}{item.name}/")


def _entry_of(item: os.DirEntry[str]) -> Entry | None:
    status = item.stat(follow_symlinks=False)
    uid = 0 if status.st_uid == os.getuid() else status.st_uid
    gid = 0 if status.st_gid == os.getgid() else status.st_gid
    if stat.S_ISLNK(status.st_mode):
        return Entry(stat.S_IFLNK | 0o777, os.fsencode(os.readlink(item.path)), uid, gid)
    if stat.S_ISREG(status.st_mode):
        return Entry(status.st_mode, Path(item.path).read_bytes(), uid, gid)
    if stat.S_ISDIR(status.st_mode):
        return Entry(status.st_mode, b"", uid, gid)
    return None
