"""Copy a memory image without its zero pages."""

from __future__ import annotations

import os
from dataclasses import dataclass

from agentd._cold import ffi, lib
from agentd.native.calls import NEVER_NS
from agentd.units import MIB

CHUNK_BYTES = 2 * MIB


@dataclass(frozen=True, slots=True)
class CopiedMemory:
    """What a copy saw.

    Args: data_bytes: in pages that are not zero. chunk_hashes: XXH3-64 as 16 hexadecimal digits,
    one per chunk, over (page index as 8 little-endian bytes, page) of those pages.
    """

    data_bytes: int
    chunk_hashes: tuple[str, ...]


def copy_memory(
    src_fd: int,
    dst_fd: int,
    size_bytes: int,
    chunk_bytes: int = CHUNK_BYTES,
    *,
    deadline_ns: int = NEVER_NS,
    cancel_fd: int = -1,
) -> CopiedMemory:
    """Copy a memory image without its zero pages, hashing it on the way.

    Args: src_fd: a file or memfd of at least size_bytes; its holes stay holes. dst_fd: an empty
    one, which gets size_bytes and holes, or -1 to hash only. Both sizes are multiples of the page.
    Seals, fsync and rename are the caller's.
    Raises: OSError: ENODATA if the source is too short, ENOTEMPTY if the destination holds data,
    ECANCELED, ETIMEDOUT, ENOSPC, EIO. The destination is then half-written.
    """
    if size_bytes < 0 or chunk_bytes <= 0:
        raise ValueError(f"cannot copy {size_bytes} bytes in chunks of {chunk_bytes}")
    count = lib.seal_chunks(size_bytes, chunk_bytes)
    hashes = ffi.new("uint64_t[]", count)
    limits = ffi.new("struct limits *", (deadline_ns, cancel_fd))
    result = ffi.new("struct seal_result *")
    rc = lib.seal_copy(src_fd, dst_fd, size_bytes, chunk_bytes, limits, hashes, result)
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return CopiedMemory(result.data_bytes, tuple(f"{value:016x}" for value in hashes))
