"""Compute SHA-256 over open files."""

from __future__ import annotations

import hashlib
import os
from typing import Final

from agentd.store.files import MEMORY
from agentd.store.progress import Steps
from agentd.units import MIB

_BLOCK_BYTES: Final = 4 * MIB


def sha256_file(fd: int, size_bytes: int, stage: str, steps: Steps) -> str:
    """The SHA-256, hex, of a file's first size_bytes, holes read as zero. Raises: OSError."""
    digest = hashlib.sha256()
    block = bytearray(_BLOCK_BYTES)
    for offset in range(0, size_bytes, _BLOCK_BYTES):
        with memoryview(block)[: min(_BLOCK_BYTES, size_bytes - offset)] as view:
            digest.update(view[: os.preadv(fd, [view], offset)])
        steps.reached(stage, min(offset + _BLOCK_BYTES, size_bytes), size_bytes)
    return digest.hexdigest()


def encode_digest(sha256: str) -> bytes:
    """The text of `memory.sha256`, in the form that sha256sum(1) checks."""
    return f"{sha256}  {MEMORY}\n".encode()
