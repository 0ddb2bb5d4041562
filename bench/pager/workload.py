"""Plan an image with the working set that its forks touch: the same for everyone, by seed.

The shape is that of a small interpreter's guest: 512 MiB of which 61.8 % are zeros, 8,000 pages
touched in 956 clusters of 1 to 16, a third of them zeros, 3,504 written.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

PAGE_BYTES: Final = 4096
BLOCK_PAGES: Final = 16  # 64 KiB: what one fault-around takes

PAGES: Final = 131_072
ZERO_PAGES: Final = 81_003
CLUSTERS: Final = 956
CLUSTER_MAX: Final = 16
TOUCHED: Final = 8_000
TOUCHED_ZERO: Final = 2_736
WRITTEN_ZERO: Final = 1_904
WRITTEN_DATA: Final = 1_600
WRITTEN: Final = WRITTEN_ZERO + WRITTEN_DATA


@dataclass(frozen=True)
class Touch:
    """What a guest does to one page."""

    page: int
    is_write: bool


@dataclass(frozen=True)
class Workload:
    """An image's zeros, one byte for each page; the working set in the order of first use."""

    is_zero: bytes
    touches: Sequence[Touch]


def plan_workload(seed: int) -> Workload:
    """The workload of a seed."""
    draw = random.Random(seed)
    clusters = _place(draw, _lengths(draw))
    is_zero = _zeros(draw, clusters)
    order = list(clusters)
    draw.shuffle(order)
    pages = [page for cluster in order for page in cluster]
    written = _written(draw, pages, is_zero)
    return Workload(bytes(is_zero), [Touch(page, page in written) for page in pages])


def _lengths(draw: random.Random) -> list[int]:
    lengths = [draw.randint(1, CLUSTER_MAX) for _ in range(CLUSTERS)]
    while (missing := TOUCHED - sum(lengths)) != 0:
        at, step = draw.randrange(CLUSTERS), 1 if missing > 0 else -1
        if 1 <= lengths[at] + step <= CLUSTER_MAX:
            lengths[at] += step
    return lengths


def _place(draw: random.Random, lengths: Sequence[int]) -> list[range]:
    """Clusters at random, in the order of the image, at least a page apart."""
    room = PAGES - sum(lengths) - len(lengths)
    cuts = sorted(draw.randint(0, room) for _ in lengths)
    clusters, used = [], 0
    for cut, length in zip(cuts, lengths, strict=True):
        clusters.append(range(cut + used, cut + used + length))
        used += length + 1
    return clusters


def _zeros(draw: random.Random, clusters: Sequence[range]) -> bytearray:
    """Whole clusters are zeros, as a kernel hands out memory; so is a part of each gap."""
    is_zero = bytearray(PAGES)
    left = TOUCHED_ZERO
    for cluster in draw.sample(clusters, len(clusters)):
        count = min(left, len(cluster))
        is_zero[cluster.start : cluster.start + count] = b"\1" * count
        left -= count
    bounds = [0, *(edge for one in clusters for edge in (one.start, one.stop)), PAGES]
    gaps = [range(a, b) for a, b in list(pairwise(bounds))[::2]]
    passed, share = 0, (ZERO_PAGES - TOUCHED_ZERO) / sum(map(len, gaps))
    for gap in gaps:
        # Rounded as a running sum, so that the total is exact.
        count = round((passed + len(gap)) * share) - round(passed * share)
        is_zero[gap.stop - count : gap.stop] = b"\1" * count
        passed += len(gap)
    return is_zero


def _written(draw: random.Random, pages: Sequence[int], is_zero: bytearray) -> set[int]:
    zeros = [page for page in pages if is_zero[page]]
    data = [page for page in pages if not is_zero[page]]
    return {*draw.sample(zeros, WRITTEN_ZERO), *draw.sample(data, WRITTEN_DATA)}


def plan_recordings(
    workload: Workload, coverage: float, count: int, seed: int
) -> list[list[Touch]]:
    """What `count` forks touch that have a share of the workload's blocks in common with it.

    Instead of a block that is not common each of them touches one of its own, as large: so the
    recorded set covers `coverage` of the next fork, as of each of those that were recorded.
    """
    draw = random.Random(seed)
    blocks = sorted({touch.page // BLOCK_PAGES for touch in workload.touches})
    own = _drop(draw.sample(blocks, len(blocks)), workload.touches, coverage)
    free = sorted(set(range(PAGES // BLOCK_PAGES)) - set(blocks))
    places = draw.sample(free, count * len(own))
    recordings = []
    for number in range(count):
        mine = places[number * len(own) : (number + 1) * len(own)]
        moved = dict(zip(sorted(own), mine, strict=True))
        recordings.append([_move(touch, moved) for touch in workload.touches])
    return recordings


def _drop(blocks: Sequence[int], touches: Sequence[Touch], coverage: float) -> set[int]:
    """As many of the blocks, in order, as hold the share of touches that is not covered."""
    pages = Counter(touch.page // BLOCK_PAGES for touch in touches)
    dropped: set[int] = set()
    left = round((1 - coverage) * len(touches))
    for block in blocks:
        if pages[block] <= left:
            dropped.add(block)
            left -= pages[block]
    return dropped


def _move(touch: Touch, moved: dict[int, int]) -> Touch:
    block, within = divmod(touch.page, BLOCK_PAGES)
    return Touch(moved.get(block, block) * BLOCK_PAGES + within, touch.is_write)


def plan_single_faults(workload: Workload, count: int, seed: int) -> list[Touch]:
    """Writes to pages with content, one in a 64 KiB block, in no order: no fault helps another."""
    draw = random.Random(seed)
    blocks = range(0, len(workload.is_zero), BLOCK_PAGES)
    data = [[p for p in range(at, at + BLOCK_PAGES) if not workload.is_zero[p]] for at in blocks]
    chosen = draw.sample([pages for pages in data if pages], count)
    return [Touch(draw.choice(pages), True) for pages in chosen]


def format_trace(touches: Sequence[Touch], is_zero: bytes) -> str:
    """As the programs in C read it: a line for each touch, "PAGE r|w d|z"."""
    return "".join(
        f"{one.page} {'w' if one.is_write else 'r'} {'z' if is_zero[one.page] else 'd'}\n"
        for one in touches
    )


def runs_of(is_zero: bytes) -> Iterator[tuple[int, int]]:
    """Where an image has content: first page, number of pages."""
    at = is_zero.find(0)
    while at >= 0:
        end = is_zero.find(1, at)
        end = len(is_zero) if end < 0 else end
        yield at, end - at
        at = is_zero.find(0, end)
