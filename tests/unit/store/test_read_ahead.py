"""What is asked for ahead of a copy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentd.store.read_ahead import (
    REQUEST_BYTES,
    SAMPLE_PAGES,
    Extent,
    Reading,
    requests_of,
    sample_of,
)
from agentd.units import MIB, PAGE_BYTES

PAGES = st.integers(0, 4096).map(lambda page: page * PAGE_BYTES)
EXTENTS = st.lists(PAGES, max_size=12, unique=True).map(
    lambda ends: [Extent(a, b) for a, b in zip(*[iter(sorted(ends))] * 2, strict=False)]
)


@given(EXTENTS, st.integers(0, 64 * MIB))
def test_requests_cover_the_extents_in_order_as_far_as_they_may(
    extents: list[Extent], most_bytes: int
) -> None:
    requests = requests_of(extents, most_bytes)
    assert all(0 < length <= REQUEST_BYTES for _offset, length in requests)
    asked = [byte for offset, length in requests for byte in (offset, offset + length)]
    assert asked == sorted(asked)
    data_bytes = sum(one.end - one.start for one in extents)
    assert sum(length for _offset, length in requests) == min(data_bytes, most_bytes)
    for offset, length in requests:
        assert any(one.start <= offset and offset + length <= one.end for one in extents)


@given(EXTENTS)
def test_a_sample_is_small_and_lies_in_the_extents(extents: list[Extent]) -> None:
    sample = sample_of(extents)
    assert len(sample) <= SAMPLE_PAGES
    assert bool(sample) == bool(extents)
    assert all(any(one.start <= at < one.end for one in extents) for at in sample)


def test_a_sample_is_spread_over_all_of_a_long_file() -> None:
    sample = sample_of([Extent(0, 256 * MIB), Extent(512 * MIB, 768 * MIB)])
    assert len(sample) == SAMPLE_PAGES
    assert sum(at < 256 * MIB for at in sample) == SAMPLE_PAGES // 2


def test_why_says_what_was_found_and_what_is_done() -> None:
    cold, warm = Reading(0.25, 130 * MIB), Reading(1.0, 0)
    assert (cold.source, warm.source) == ("disk", "cache")
    assert cold.why == "25% of the data is in the page cache: 130 MiB are read ahead"
    assert warm.why == "100% of the data is in the page cache: none is"
