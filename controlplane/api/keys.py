"""Derive what control plane and node both put in the place of a key."""

from __future__ import annotations

import hashlib
from typing import Final

_ID_HEX: Final = 16


def key_id(key: str) -> str:
    """A short stand-in for a snapshotKey, good as a label's value."""
    return digest(key)[:_ID_HEX]


def digest(*parts: str) -> str:
    """SHA-256 in hex. Parts are framed by their length: no two lists of parts read the same."""
    framed = "".join(f"{len(part.encode())}:{part}" for part in parts)
    return hashlib.sha256(framed.encode()).hexdigest()
