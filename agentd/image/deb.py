"""Reading a binary Debian package into a file tree.

Source: deb(5). A package is an `ar` archive of three members; the last is a compressed tar.
"""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import Final

from agentd.errors import ErrorCode, PermanentError
from agentd.image.tree import Entry, Tree

_AR_MAGIC: Final = b"!<arch>\n"
_AR_HEADER_BYTES: Final = 60
# Whole, not as a stream: then decompression runs without the GIL, beside another package's.
_DECOMPRESS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "data.tar": bytes,
    "data.tar.gz": gzip.decompress,
    "data.tar.xz": lzma.decompress,
}


def unpack_deb(content: bytes, name: str, tree: Tree) -> None:
    """Add a package's files to a tree.

    Args: content: the whole .deb, already verified. name: the package's, for messages.
    Raises: PermanentError if the package cannot be read.
    """
    try:
        data = _data_tar(content, name)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                _add_member(tree, tar, member)
    except (tarfile.TarError, lzma.LZMAError, OSError, EOFError, ValueError) as exc:
        raise _unreadable(name, f"{type(exc).__name__}: {exc}") from exc


def _data_tar(content: bytes, name: str) -> bytes:
    seen = []
    for member, data in _ar_members(content):
        if member in _DECOMPRESS:
            return _DECOMPRESS[member](data)
        seen.append(member)
    raise _unreadable(name, f"its members are {seen!r}, none of {list(_DECOMPRESS)!r}")


def _ar_members(content: bytes) -> Iterator[tuple[str, bytes]]:
    if not content.startswith(_AR_MAGIC):
        raise ValueError("not an ar archive")
    offset = len(_AR_MAGIC)
    while offset + _AR_HEADER_BYTES <= len(content):
        header = content[offset : offset + _AR_HEADER_BYTES]
        size = int(header[48:58])
        offset += _AR_HEADER_BYTES
        if size < 0 or offset + size > len(content):
            raise ValueError("an ar member is longer than the archive")
        yield header[:16].decode("ascii").rstrip().rstrip("/"), content[offset : offset + size]
        offset += size + size % 2


def _add_member(tree: Tree, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    if ".." in member.name.split("/"):
        raise ValueError(f"the path {member.name!r} leaves the package")
    entry = _entry_of(tree, tar, member)
    if entry is not None:
        tree.add(member.name, entry)


def _entry_of(tree: Tree, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry | None:
    mode, uid, gid = stat.S_IMODE(member.mode), member.uid, member.gid
    if member.isdir():
        return Entry(stat.S_IFDIR | mode, uid=uid, gid=gid)
    if member.issym():
        target = member.linkname.encode(errors="surrogateescape")
        return Entry(stat.S_IFLNK | 0o777, target, uid, gid)
    if member.islnk():
        # A copy: few packages use hard links, and the archive then needs no second pass.
        original = tree.get(member.linkname)
        if original is None:
            raise ValueError(f"hard link {member.name!r} to missing {member.linkname!r}")
        return original
    if not member.isreg():
        return None  # device nodes and fifos: the guest has a devtmpfs
    source = tar.extractfile(member)
    return Entry(stat.S_IFREG | mode, source.read() if source else b"", uid, gid)


def _unreadable(name: str, reason: str) -> PermanentError:
    return PermanentError(
        ErrorCode.IMAGE_INVALID,
        f"unpacking the Debian package {name!r}: {reason}",
        hint="packages of Debian 12 are known to work",
    )
