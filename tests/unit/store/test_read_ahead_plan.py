"""What is read ahead: pages that forks agree on, in requests that the kernel takes whole."""

from __future__ import annotations

import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.store.read_ahead_plan import (
    GAP_PAGES,
    READ_PAGES,
    SAMPLE_PAGES,
    agreed_mask,
    is_cold,
    requests_of,
    runs_of,
    sample_of,
    touched_mask,
)
from agentd.units import PAGE_BYTES
from agentd.wire.read_ahead import PageRun

PAGES = 400
# Runs of any length with gaps of any length between them.
lengths = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 70)), max_size=12)
masks = lengths.map(
    lambda pairs: b"".join(bytes(gap) + b"\x01" * run for gap, run in pairs)[:PAGES].ljust(
        PAGES, b"\x00"
    )
)


def mask(*pages: int) -> bytes:
    return bytes(int(page in pages) for page in range(PAGES))


def pages_of(runs: tuple[PageRun, ...]) -> list[int]:
    return [page for run in runs for page in range(run.first, run.end)]


@pytest.mark.parametrize(
    ("entry", "is_touched"),
    [
        pytest.param(0, 0, id="never touched"),
        pytest.param(1 << 63, 1, id="present, anonymous"),
        pytest.param(1 << 63 | 1 << 61, 1, id="present, of the file"),
        pytest.param(1 << 62, 1, id="swapped out"),
        pytest.param(1 << 61, 0, id="of the file, gone again"),
        pytest.param((1 << 61) - 1, 0, id="every other bit"),
    ],
)
def test_entry_of_the_page_table_counts_if_the_page_is_there(entry: int, is_touched: int) -> None:
    assert touched_mask(struct.pack("<3Q", 1 << 63, entry, 0)) == bytes([1, is_touched, 0])


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        pytest.param([(1, 2)], (1, 2), id="all of one"),
        pytest.param([(1, 2), (2, 3)], (2,), id="both of two"),
        pytest.param([(1, 2), (2, 3), (3, 4)], (2, 3), id="two of three"),
        pytest.param([(1,), (1,), (2,), (2,)], (), id="half is not more than half"),
    ],
)
def test_records_agree_where_more_than_half_do(
    records: list[tuple[int, ...]], expected: tuple[int, ...]
) -> None:
    assert agreed_mask([mask(*pages) for pages in records]) == mask(*expected)


def test_no_records_agree_on_nothing() -> None:
    assert runs_of(agreed_mask([])) == ()


def test_as_many_records_as_a_byte_counts_still_agree() -> None:
    assert agreed_mask([mask(399)] * 128 + [mask(0)] * 127) == mask(399)


@given(st.lists(masks, min_size=1, max_size=5))
def test_agreeing_counts_each_page_by_itself(records: list[bytes]) -> None:
    agreed = agreed_mask(records)
    for page in range(PAGES):
        assert agreed[page] == int(2 * sum(one[page] for one in records) > len(records))


def test_gaps_are_closed_up_to_their_limit() -> None:
    assert runs_of(mask(10, 11, 12 + GAP_PAGES)) == (PageRun(10, 3 + GAP_PAGES),)
    assert runs_of(mask(10, 11, 13 + GAP_PAGES)) == (PageRun(10, 2), PageRun(13 + GAP_PAGES, 1))


def test_edges_of_the_memory_are_pages_like_others() -> None:
    assert runs_of(mask(0, 399)) == (PageRun(0, 1), PageRun(399, 1))
    assert runs_of(bytes([1]) * PAGES) == (PageRun(0, PAGES),)


@given(masks)
def test_runs_hold_every_page_once_and_are_far_apart(touched: bytes) -> None:
    runs = runs_of(touched)
    pages = pages_of(runs)
    assert pages == sorted(set(pages))
    assert {page for page in range(PAGES) if touched[page]} <= set(pages)
    for earlier, later in pairwise(runs):
        assert later.first - earlier.end > GAP_PAGES
    for run in runs:  # nothing beside what was touched, but for gaps
        assert touched[run.first]
        assert touched[run.end - 1]


@given(masks)
def test_requests_cover_the_runs_in_pieces_that_the_kernel_does_not_cut(touched: bytes) -> None:
    runs = runs_of(touched)
    requests = list(requests_of(runs, PAGES * PAGE_BYTES))
    assert all(0 < length <= READ_PAGES * PAGE_BYTES for _, length in requests)
    asked = [
        page
        for offset, length in requests
        for page in range(offset // PAGE_BYTES, (offset + length) // PAGE_BYTES)
    ]
    assert asked == pages_of(runs)


def test_nothing_is_asked_for_behind_the_end_of_the_file() -> None:
    runs = (PageRun(0, 2), PageRun(5, 10**15), PageRun(10**16, 1))
    requests = list(requests_of(runs, 7 * PAGE_BYTES + 1))
    assert requests == [(0, 2 * PAGE_BYTES), (5 * PAGE_BYTES, 2 * PAGE_BYTES + 1)]


@given(masks)
def test_sample_is_small_and_of_the_runs(touched: bytes) -> None:
    runs = runs_of(touched)
    sample = sample_of(runs)
    assert len(sample) == len(set(sample)) <= SAMPLE_PAGES
    assert set(sample) <= set(pages_of(runs))
    assert bool(sample) == bool(runs)


def test_sample_reaches_every_part_of_the_memory() -> None:
    draw = random.Random(5)
    runs = tuple(PageRun(number * 1000, draw.randint(1, 90)) for number in range(200))
    sample = sample_of(runs)
    assert len(sample) > SAMPLE_PAGES // 2
    quarters = {page // 50_000 for page in sample}
    assert quarters == {0, 1, 2, 3}


def test_a_few_missing_pages_are_not_cold() -> None:
    assert [is_cold(share) for share in (0.0, 0.5, 0.94, 0.95, 1.0)] == [True] * 3 + [False] * 2
