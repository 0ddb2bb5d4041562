"""Decide what of a template's memory is read ahead.

A mask has one byte for each page of the memory: 1 if it counts, 0 if not. Bytes, because the
standard library searches, translates and adds them at the speed of C.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from agentd.units import PAGE_BYTES
from agentd.wire.read_ahead import PageRun

# More forks than that agree on the same pages, within a percent.
RECORDS: Final = 3
# Joining two runs saves a request and reads what is between them. Up to 32 KiB that made no
# difference on a fast disk; a volume of 3,000 requests and 125 MB each second is even at 40 KiB.
GAP_PAGES: Final = 8
# The kernel cuts each request to the device's own read-ahead, 128 KiB at least
# (mm/readahead.c, force_page_cache_ra).
READ_PAGES: Final = 32
# Reading what is there already costs a millisecond; a fault that waits for a disk, a tenth of one.
WARM: Final = 0.95
SAMPLE_PAGES: Final = 64

# Of an entry of /proc/PID/pagemap (proc(5)): bit 63, present, or bit 62, swapped.
_ENTRY_BYTES: Final = 8
_PRESENT: Final = bytes(int(top & 0xC0 != 0) for top in range(256))
_COUNTED: Final = re.compile(rb"\x01+")


def touched_mask(pagemap: bytes) -> bytes:
    """Which pages a process has, by its entries of /proc/PID/pagemap, little-endian.

    Where a fault found its neighbours in the page cache, the kernel maps up to 64 KiB with it:
    those count too, and are as good a guess as any.
    """
    return pagemap[_ENTRY_BYTES - 1 :: _ENTRY_BYTES].translate(_PRESENT)


def agreed_mask(records: Sequence[bytes]) -> bytes:
    """The pages that more than half of the records have (all of one or two).

    Args: records: masks of one memory, at most 255. Returns: empty without records.
    """
    pages = len(records[0]) if records else 0
    counts = sum(int.from_bytes(mask, "little") for mask in records).to_bytes(pages, "little")
    return counts.translate(bytes(int(2 * count > len(records)) for count in range(256)))


def runs_of(mask: bytes) -> tuple[PageRun, ...]:
    """The runs of a mask, ascending, with gaps of up to GAP_PAGES closed."""
    runs: list[PageRun] = []
    for found in _COUNTED.finditer(mask):
        start = found.start()
        if runs and start - runs[-1].end <= GAP_PAGES:
            start = runs.pop().first
        runs.append(PageRun(start, found.end() - start))
    return tuple(runs)


def requests_of(runs: Iterable[PageRun], size_bytes: int) -> Iterator[tuple[int, int]]:
    """Offset and length of each request, ascending; nothing beyond the file's end."""
    for run in runs:
        for first in range(run.first, run.end, READ_PAGES):
            offset = first * PAGE_BYTES
            length = min(run.end - first, READ_PAGES) * PAGE_BYTES
            if offset >= size_bytes:
                return
            yield offset, min(length, size_bytes - offset)


def sample_of(runs: Sequence[PageRun]) -> tuple[int, ...]:
    """At most SAMPLE_PAGES pages, evenly spread over all that the runs have."""
    pages = sum(run.pages for run in runs)
    step = max(1, -(-pages // SAMPLE_PAGES))
    sample: list[int] = []
    behind = 0  # pages of earlier runs
    for run in runs:
        first = -behind % step
        sample += range(run.first + first, run.end, step)
        behind += run.pages
    return tuple(sample)


def is_cold(resident_share: float) -> bool:
    """Whether reading ahead is worth it: 0 to 1 of a sample are in memory."""
    return resident_share < WARM
