"""Figures are compared with what they belong to."""

from __future__ import annotations

import pytest

from agentd.cli import demo_starts
from bench import bare_fork
from bench.paired import paired_ratio
from bench.suites.promised import late_rounds, percentiles


def test_both_sides_of_a_comparison_run_the_same_request() -> None:
    assert demo_starts.REQUEST == bare_fork.NUMPY_REQUEST


def test_a_slower_moment_hits_both_of_a_pair() -> None:
    floor = [100.0, 400.0, 110.0, 390.0, 105.0]
    ratio = paired_ratio([value * 1.05 for value in floor], floor)
    assert ratio.median == pytest.approx(1.05)
    assert ratio.low == pytest.approx(1.05)
    assert ratio.high == pytest.approx(1.05)
    assert ratio.pairs == 5


def test_the_interval_repeats() -> None:
    ours, floor = [1.0, 1.2, 1.1, 1.4], [1.0, 1.0, 1.0, 1.0]
    assert paired_ratio(ours, floor) == paired_ratio(ours, floor)
    assert paired_ratio(ours, floor).low <= 1.15 <= paired_ratio(ours, floor).high


def test_series_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="longer"):
        paired_ratio([1.0], [1.0, 2.0])


def test_percentiles_are_given_in_milliseconds_with_their_number() -> None:
    values_us = [float(value) for value in range(1001)]
    assert percentiles(values_us) == "p50 0.500, p95 0.950, p99 0.990 ms, 1001 rounds"


def test_a_late_round_is_laid_to_the_machine_only_when_the_wait_explains_it() -> None:
    words = late_rounds([200.0, 5000.0, 6000.0], [9000.0, 4800.0, 10.0])
    assert words == "2 over 1 ms, 1 of them for want of a free processor"
