"""The `newc` archive format of initramfs.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel. Inode
numbers, times and order are functions of the content, so equal trees give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from agentd.errors import ErrorCode, PermanentError
from agentd.image.tree import Entry

# 1980-01-01 UTC: constant, and the oldest time that zip files made in the guest can hold.
MTIME_S: Final = 315_532_800
_MAX_FILE_BYTES: Final = 0xFFFF_FFFF
_TRAILER: Final = "TRAILER!!!"
_BLOCK_BYTES: Final = 512


class Sink(Protocol):
    """Where an archive goes."""

    def write(self, data: bytes, /) -> object: ...


def write_archive(entries: Iterable[tuple[str, Entry]], out: Sink) -> int:
    """Write entries, parents first, as one archive.

    Returns: the archive's size in bytes.
    Raises: PermanentError if a file is 4 GiB or more; what the sink raises.
    """
    size = 0
    for inode, (path, entry) in enumerate(entries, start=1):
        size += _write_member(out, path, entry, inode)
    size += _write_member(out, _TRAILER, Entry(0), 0)
    tail = -size % _BLOCK_BYTES
    out.write(bytes(tail))
    return size + tail


def _write_member(out: Sink, path: str, entry: Entry, inode: int) -> int:
    if len(entry.data) > _MAX_FILE_BYTES:
        raise PermanentError(
            ErrorCode.IMAGE_INVALID,
            f"archiving {path!r}: {len(entry.data)} bytes, and a cpio member holds less than 4 GiB",
            hint="leave the file out of the image",
        )
    name = path.encode(errors="surrogateescape") + b"\0"
    head = _header(entry, inode, len(name)) + name
    head += bytes(-len(head) % 4)
    padding = bytes(-len(entry.data) % 4)
    out.write(head)
    if entry.data:
        out.write(entry.data)
        out.write(padding)
    return len(head) + len(entry.data) + (len(padding) if entry.data else 0)


def _header(entry: Entry, inode: int, name_size: int) -> bytes:
    is_member = entry.mode != 0
    fields = (
        inode,
        entry.mode,
        entry.uid,
        entry.gid,
        2 if entry.is_dir else 1,
        MTIME_S if is_member else 0,
        len(entry.data),
        0,
        0,
        *entry.device,
        name_size,
        0,
    )
    return b"070701" + b"".join(b"%08X" % field for field in fields)
