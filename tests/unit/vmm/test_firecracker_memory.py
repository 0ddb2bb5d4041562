"""Where a fork's memory comes from."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from agentd.vmm.firecracker_memory import (
    MemoryFacts,
    choose_backend,
    parse_recall,
)

BEST = MemoryFacts(
    has_server=True, can_fault=True, is_recorded=False, has_set=True, recall=0.9, is_warm=True
)


@pytest.mark.parametrize(
    ("changes", "backend", "words"),
    [
        ({}, "Uffd", "installed before"),
        ({"has_server": False}, "File", "no page server"),
        ({"can_fault": False}, "File", "userfaultfd"),
        ({"has_set": False}, "File", "nothing was recorded"),
        ({"is_recorded": True, "has_set": False}, "Uffd", "is recorded"),
        ({"is_recorded": True, "has_set": False, "has_server": False}, "File", "no page server"),
        ({"recall": 0.7}, "File", "not recorded"),
        ({"recall": 0.7, "is_warm": False}, "Uffd", "installed before"),
        ({"recall": 0.8}, "Uffd", "installed before"),
        ({"recall": None}, "Uffd", "installed before"),
    ],
)
def test_the_back_end_follows_ability_cache_and_coverage(
    changes: dict[str, bool], backend: str, words: str
) -> None:
    choice = choose_backend(replace(BEST, **changes))  # type: ignore[arg-type]
    assert choice.backend == backend
    assert words in choice.why


def head(
    recall: int, *, magic: bytes = b"SNAPWSET", version: int = 1, digest: bytes = bytes(32)
) -> bytes:
    """As native/pager/working_set_file.h has it."""
    return struct.pack("<8sII32s6Q", magic, version, 0, digest, 1 << 20, 3, 30, 20, recall, 0)


@pytest.mark.parametrize(
    ("data", "recall"),
    [
        (head(750_000), 0.75),
        (head(750_000, digest=b"\xff" * 32), 0.75),
        (head(1_000_000) + b"runs", 1.0),
        (head(0), 0.0),
        (head(2**64 - 1), None),
        (head(750_000, magic=b"SNAPRECD"), None),
        (head(750_000, version=2), None),
        (head(750_000)[:80], None),
        (b"", None),
    ],
)
def test_the_recall_of_a_working_set_is_in_its_head(data: bytes, recall: float | None) -> None:
    assert parse_recall(data) == recall
