"""The workload is what its description says, whatever the seed."""

from __future__ import annotations

import pytest

from bench.pager import workload
from bench.pager.workload import (
    BLOCK_PAGES,
    PAGES,
    Touch,
    Workload,
    format_trace,
    plan_recordings,
    plan_single_faults,
    plan_workload,
    runs_of,
)

SEEDS = [1, 2, 77]


def pages_of(touches: list[Touch]) -> set[int]:
    return {touch.page for touch in touches}


def clusters_of(plan: Workload) -> list[int]:
    """Lengths of what follows each other both in the image and in the order of use."""
    lengths: list[int] = []
    last = -2
    for touch in plan.touches:
        if touch.page == last + 1:
            lengths[-1] += 1
        else:
            lengths.append(1)
        last = touch.page
    return lengths


@pytest.mark.parametrize("seed", SEEDS)
def test_the_figures_of_the_image_are_exact(seed: int) -> None:
    plan = plan_workload(seed)
    assert len(plan.is_zero) == PAGES
    assert sum(plan.is_zero) == workload.ZERO_PAGES


@pytest.mark.parametrize("seed", SEEDS)
def test_the_figures_of_the_working_set_are_exact(seed: int) -> None:
    plan = plan_workload(seed)
    zeros = [touch for touch in plan.touches if plan.is_zero[touch.page]]
    lengths = clusters_of(plan)
    assert len(pages_of(list(plan.touches))) == len(plan.touches) == workload.TOUCHED
    assert len(zeros) == workload.TOUCHED_ZERO
    assert sum(touch.is_write for touch in zeros) == workload.WRITTEN_ZERO
    assert sum(touch.is_write for touch in plan.touches) == workload.WRITTEN
    assert len(lengths) == workload.CLUSTERS
    assert max(lengths) <= workload.CLUSTER_MAX


def test_one_seed_gives_one_workload_and_another_seed_another() -> None:
    assert plan_workload(1) == plan_workload(1)
    assert plan_workload(1) != plan_workload(2)


@pytest.mark.parametrize("coverage", [1.0, 0.9, 0.7])
def test_recordings_have_what_is_covered_in_common_with_the_next_fork_and_nothing_else(
    coverage: float,
) -> None:
    plan = plan_workload(1)
    real = pages_of(list(plan.touches))
    recorded = [pages_of(one) for one in plan_recordings(plan, coverage, 3, seed=1)]
    common = recorded[0] & recorded[1] & recorded[2]
    assert common <= real
    assert len(common) == pytest.approx(coverage * len(real), abs=BLOCK_PAGES)
    for number, one in enumerate(recorded):
        assert len(one) == len(real)
        assert one & real == common
        assert one & recorded[number - 1] == common


def test_what_is_missing_from_a_recording_is_missing_by_whole_blocks() -> None:
    plan = plan_workload(1)
    recorded = pages_of(plan_recordings(plan, 0.7, 1, seed=1)[0])
    missing = pages_of(list(plan.touches)) - recorded
    blocks = {page // BLOCK_PAGES for page in missing}
    assert missing == {p for p in pages_of(list(plan.touches)) if p // BLOCK_PAGES in blocks}


def test_single_faults_write_to_content_in_blocks_of_their_own() -> None:
    plan = plan_workload(1)
    touches = plan_single_faults(plan, 3000, seed=1)
    assert len({touch.page // BLOCK_PAGES for touch in touches}) == 3000
    assert all(touch.is_write and not plan.is_zero[touch.page] for touch in touches)


def test_a_trace_says_how_and_what_of_each_touch() -> None:
    touches = [Touch(2, True), Touch(0, False)]
    assert format_trace(touches, bytes([0, 0, 1])) == "2 w z\n0 r d\n"


@pytest.mark.parametrize(
    ("is_zero", "runs"),
    [
        ([], []),
        ([1, 1], []),
        ([0, 0], [(0, 2)]),
        ([1, 0, 1, 0], [(1, 1), (3, 1)]),
        ([0, 1, 1, 0, 0, 1], [(0, 1), (3, 2)]),
    ],
    ids=["empty", "zeros", "content", "at the end", "both ends"],
)
def test_runs_are_where_the_content_is(is_zero: list[int], runs: list[tuple[int, int]]) -> None:
    assert list(runs_of(bytes(is_zero))) == runs
