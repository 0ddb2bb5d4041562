"""What a sample may say, and how samples are put together."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.bundle import Sample, nearest_rank, summarize_groups
from bench.bundle.samples import decode_lines, encode_line


def sample(value: float | None, **changes: Any) -> Sample:
    error = "it broke" if value is None else None
    members: dict[str, Any] = {"series": "fork", "machine_kind": "qemu", "cache": "warm"}
    members |= {"unit": "ms", "value": value, "error": error, "round": 0, "at_s": 0.0}
    return Sample(**members | changes)


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 15), (5, 15), (30, 20), (40, 20), (50, 35), (95, 50), (100, 50)]
)
def test_the_nearest_rank_is_that_of_the_textbook(percent: float, value: float) -> None:
    assert nearest_rank([15, 20, 35, 40, 50], percent) == value


@given(st.lists(st.integers(), min_size=1), st.integers(1, 100))
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed(
    values: list[int], percent: int
) -> None:
    found = nearest_rank(sorted(values), percent)
    assert found in values
    assert sum(one <= found for one in values) * 100 >= percent * len(values)
    assert sum(one < found for one in values) * 100 < percent * len(values)


def test_percentiles_are_of_all_samples_not_of_rounds() -> None:
    values = list(range(1, 101))
    random.Random(1).shuffle(values)
    [found] = summarize_groups([sample(one, round=one % 7) for one in values])
    assert (found.n, found.min, found.p50, found.p95, found.p99, found.max) == (
        100, 1, 50, 95, 99, 100
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{"cache": "cold"}, {"machine_kind": "stand-in"}, {"unit": "us"}, {"dims": {"together": "8"}}],
    ids=str,
)
def test_what_differs_is_not_put_together(changes: dict[str, Any]) -> None:
    found = summarize_groups([sample(1.0), sample(2.0, **changes), sample(3.0)])
    assert [(one.n, one.max) for one in found] == [(2, 3.0), (1, 2.0)]


def test_the_order_of_dimensions_means_nothing() -> None:
    left, right = {"a": "1", "b": "2"}, {"b": "2", "a": "1"}
    assert len(summarize_groups([sample(1.0, dims=left), sample(2.0, dims=right)])) == 1


def test_failures_are_counted_and_no_part_of_percentiles() -> None:
    [found] = summarize_groups([sample(None), sample(5.0), sample(None)])
    assert (found.n, found.failures, found.p50, found.max) == (1, 2, 5.0, 5.0)


def test_a_group_of_failures_alone_has_no_percentiles() -> None:
    [found] = summarize_groups([sample(None)])
    assert (found.n, found.failures, found.min, found.p99) == (0, 1, None, None)


@pytest.mark.parametrize(
    "changes",
    [{"value": 1.0}, {"error": None}, {"value": math.nan, "error": None}, {"at_s": math.inf}],
    ids=["value and error", "neither", "no number", "infinite time"],
)
def test_a_sample_that_says_nothing_is_refused(changes: dict[str, Any]) -> None:
    members = msgspec.structs.asdict(sample(None))
    with pytest.raises(ValueError, match="sample"):
        Sample(**members | changes)


def test_lines_are_read_as_they_were_written() -> None:
    samples = [sample(0.1 + 0.2, dims={"a": "ü\n"}), sample(None, error='"line"\u2028')]
    assert decode_lines(b"".join(map(encode_line, samples))) == samples


def test_a_broken_line_is_named() -> None:
    with pytest.raises(ValueError, match="line 2: "):
        decode_lines(encode_line(sample(1.0)) + b'{"series": 1}\n')
