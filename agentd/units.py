"""Constants of size and time."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
NS_PER_S = 1_000_000_000
PAGE_BYTES = 4096
