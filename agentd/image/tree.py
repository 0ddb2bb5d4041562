"""A file tree in memory, with the path rules of a file system.

Packages are merged here and not on disk, so that owners, modes and device nodes need no privilege.
Every added path is resolved through the symbolic links already in the tree: with `bin -> usr/bin`
in place, a package that ships `bin/dash` lands in `usr/bin/dash`, as it would after unpacking over
a merged /usr.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from agentd.errors import ErrorCode, PermanentError

_MAX_LINKS: Final = 40  # as Linux: path_resolution(7)


@dataclass(frozen=True)
class Entry:
    """One node. `mode` has the type bits; `data` is a file's content or a link's target."""

    mode: int
    data: bytes = b""
    uid: int = 0
    gid: int = 0
    device: tuple[int, int] = (0, 0)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


def directory(mode: int = 0o755, *, uid: int = 0, gid: int = 0) -> Entry:
    """A directory."""
    return Entry(stat.S_IFDIR | mode, uid=uid, gid=gid)


def file(data: bytes, mode: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(stat.S_IFREG | mode, data)


def link(target: str) -> Entry:
    """A symbolic link."""
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def char_device(major: int, minor: int, mode: int) -> Entry:
    """A character device."""
    return Entry(stat.S_IFCHR | mode, device=(major, minor))


class Tree:
    """Paths (no leading slash, real location) to entries."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Tree entries={len(self._entries)}>"

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        """Every path with its entry, sorted; so a directory comes before what is in it."""
        return iter(sorted(self._entries.items()))

    def add(self, path: str, entry: Entry) -> None:
        """Put an entry at a path; parents that do not exist are made.

        A directory added where a link to a directory is leaves the link alone, as dpkg does.
        Raises: PermanentError if a file and a directory want the same path, or links loop.
        """
        where = self.resolve(path, follow_last=entry.is_dir)
        if not where:
            return
        parent = where.rpartition("/")[0]
        if parent and parent not in self._entries:
            self.add(parent, directory())
        before = self._entries.get(where)
        clash = before is not None and before.is_dir != entry.is_dir
        if clash or (parent and not self._entries[parent].is_dir):
            raise _bad_path("adding", path, "a file and a directory want the same place")
        self._entries[where] = entry

    def get(self, path: str) -> Entry | None:
        """The entry at a path, links followed; None if there is none."""
        return self._entries.get(self.resolve(path))

    def has(self, path: str) -> bool:
        """True if something is at the path itself, even a dangling link."""
        return self.resolve(path, follow_last=False) in self._entries

    def remove_if(self, unwanted: Callable[[str], bool]) -> None:
        """Drop each entry whose path is unwanted; what lies below a dropped directory goes too."""
        kept: dict[str, Entry] = {}
        for path, entry in self:
            parent = path.rpartition("/")[0]
            if (not parent or parent in kept) and not unwanted(path):
                kept[path] = entry
        self._entries = kept

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """The real path of a name, following links in the tree; "" is the root.

        Raises: PermanentError on a link loop. `..` stops at the root, as in path_resolution(7).
        """
        pending = [part for part in path.split("/") if part not in ("", ".")][::-1]
        done: list[str] = []
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                del done[-1:]
                continue
            entry = self._entries.get("/".join((*done, part)))
            if entry is None or not entry.is_link or (not pending and not follow_last):
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise _bad_path("resolving", path, "too many symbolic links")
            target = entry.data.decode(errors="surrogateescape")
            if target.startswith("/"):
                done.clear()
            pending.extend([step for step in target.split("/") if step not in ("", ".")][::-1])
        return "/".join(done)


def _bad_path(what: str, path: str, reason: str) -> PermanentError:
    return PermanentError(
        ErrorCode.IMAGE_INVALID,
        f"{what} {path!r} in the guest's file tree: {reason}",
        hint="leave out the package or file that brings it",
    )
