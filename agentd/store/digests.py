"""Compute SHA-256 over open files."""

from __future__ import annotations

import hashlib
import mmap
import os
from typing import Final

from agentd.store.files import MEMORY
from agentd.store.progress import Steps
from agentd.units import MIB

_BLOCK_BYTES: Final = 4 * MIB


def sha256_file(fd: int, size_bytes: int, stage: str, steps: Steps) -> str:
    """The SHA-256, hex, of a file's first size_bytes, holes read as zero. Raises: OSError."""
    digest = hashlib.sha256()
    # A mapping goes back to the kernel. An allocation of this size would after the first time come
    # from the heap of its thread, which keeps it (mallopt(3), M_MMAP_THRESHOLD).
    with mmap.mmap(-1, _BLOCK_BYTES) as block:
        for offset in range(0, size_bytes, _BLOCK_BYTES):
            length = min(_BLOCK_BYTES, size_bytes - offset)
            with memoryview(block)[:length] as view, view[: os.preadv(fd, [view], offset)] as read:
                digest.update(read)
            steps.reached(stage, min(offset + _BLOCK_BYTES, size_bytes), size_bytes)
    return digest.hexdigest()


def encode_digest(sha256: str) -> bytes:
    """The text of `memory.sha256`, in the form that sha256sum(1) checks."""
    return f"{sha256}  {MEMORY}\n".encode()
