"""What may start on a node."""

from __future__ import annotations

import pytest

from agentd.engine.plans import (
    Need,
    NodeLimits,
    NodeLoad,
    Pace,
    can_take_parked,
    choose_admission,
    choose_duration,
    choose_machine,
    choose_parking,
    least_memory_mib,
)
from agentd.errors import ErrorCode, UsageError
from agentd.units import MIB

LIMITS = NodeLimits(memory_bytes=1000, host_reserve_bytes=100, max_sessions=3, queued_forks=2)


@pytest.mark.parametrize(
    ("need", "load", "code"),
    [
        pytest.param(Need(10), NodeLoad(0, 0, 1000, 0, 0), None, id="empty node"),
        pytest.param(Need(100), NodeLoad(800, 100, 1000, 2, 2), None, id="exactly fits"),
        pytest.param(Need(101), NodeLoad(800, 100, 1000, 0, 0), ErrorCode.NODE_FULL, id="budget"),
        pytest.param(Need(1), NodeLoad(0, 0, 1000, 3, 0), ErrorCode.NODE_FULL, id="sessions"),
        pytest.param(Need(1, is_session=False), NodeLoad(0, 0, 1000, 3, 0), None, id="a build"),
        pytest.param(Need(1), NodeLoad(0, 0, 1000, 0, 3), ErrorCode.NODE_FULL, id="queue"),
        pytest.param(Need(50), NodeLoad(0, 0, 150, 0, 0), None, id="host has just enough"),
        pytest.param(Need(51), NodeLoad(0, 0, 150, 0, 0), ErrorCode.NO_MEMORY, id="host is full"),
        pytest.param(
            Need(1, deadline_s=2.0), NodeLoad(0, 0, 1000, 0, 1, 2.0), None, id="just in time"
        ),
        pytest.param(
            Need(1, deadline_s=2.0),
            NodeLoad(0, 0, 1000, 0, 0, 2.1, has_turn=False),
            ErrorCode.NODE_FULL,
            id="it would come too late",
        ),
        pytest.param(
            Need(1, deadline_s=2.0), NodeLoad(0, 0, 1000, 0, 0, 9.0), None, id="a turn is free"
        ),
    ],
)
def test_admission(need: Need, load: NodeLoad, code: ErrorCode | None) -> None:
    refusal = choose_admission(need, load, LIMITS)
    assert (None if refusal is None else refusal.code) is code
    if refusal is not None:
        error = refusal.error()
        assert error.hint
        assert error.delay_s > 0


def test_before_the_first_start_nobody_is_expected_to_be_late() -> None:
    assert Pace().expected_s(waiting=100, turns=1) == 0.0


def test_who_waits_is_expected_after_all_before() -> None:
    pace = Pace(mean_s=1.0)
    expected = [pace.expected_s(waiting, turns=2) for waiting in (0, 1, 2, 31)]
    assert expected == [1.5, 2.0, 2.5, 17.0]


def test_the_pace_follows_what_starts_take_and_doubts_itself_while_they_differ() -> None:
    pace = Pace()
    for _ in range(40):
        pace = pace.after(0.5)
    assert pace.mean_s == pytest.approx(0.5)
    assert pace.deviation_s < 0.01
    slower = pace.after(4.0)
    assert 0.5 < slower.mean_s < 1.0
    assert slower.expected_s(0, 1) > 2 * slower.mean_s + 1.0
    for _ in range(40):
        slower = slower.after(4.0)
    assert slower.mean_s == pytest.approx(4.0, rel=0.05)


def test_a_start_that_was_cut_short_makes_no_other_seem_quick() -> None:
    """It had what its wait had left of its time: that says how long starts take at least."""
    pace = Pace(mean_s=0.5, deviation_s=0.1)
    assert pace.after_cut(0.2) == pace
    assert pace.after_cut(0.9) == pace.after(0.9)


def test_a_start_is_let_in_only_well_within_its_time() -> None:
    assert Pace(mean_s=1.0, deviation_s=0.25).expected_s(0, turns=2) == 2.5


@pytest.mark.parametrize(
    ("parked", "ready", "wanted", "expected"),
    [
        pytest.param({}, [], 1, (None, []), id="no templates"),
        pytest.param({}, ["a"], 0, (None, []), id="off"),
        pytest.param({"a": 1}, ["a", "b"], 2, ("b", []), id="the one that lacks most"),
        pytest.param({"a": 2}, ["a"], 2, (None, []), id="enough"),
        pytest.param({"a": 2}, ["a"], 1, (None, ["a"]), id="too many"),
        pytest.param({"a": 2}, [], 2, (None, ["a", "a"]), id="template went away"),
    ],
)
def test_parking(
    parked: dict[str, int], ready: list[str], wanted: int, expected: tuple[str | None, list[str]]
) -> None:
    assert choose_parking(parked, ready, wanted) == expected


def test_a_request_that_brings_anything_gets_a_fresh_fork() -> None:
    assert can_take_parked(env={}, files={}, metadata={})
    assert not can_take_parked(env={"A": "1"}, files={}, metadata={})
    assert not can_take_parked(env={}, files={"a": b""}, metadata={})
    assert not can_take_parked(env={}, files={}, metadata={"a": "b"})


@pytest.mark.parametrize("asked", [0.0, -1.0, 10.1, float("nan"), float("inf")])
def test_a_duration_out_of_bounds_is_refused(asked: float) -> None:
    with pytest.raises(UsageError, match="ttl_s"):
        choose_duration(asked, 1.0, 10.0, "ttl_s")


def test_what_is_not_asked_for_is_the_default() -> None:
    assert choose_duration(None, 1.0, 10.0, "ttl_s") == 1.0
    assert choose_duration(10.0, 1.0, 10.0, "ttl_s") == 10.0
    assert choose_machine(None, 2, 4, "vcpus") == 2
    with pytest.raises(UsageError, match="vcpus"):
        choose_machine(5, 2, 4, "vcpus")


@pytest.mark.parametrize(
    ("kernel_bytes", "initrd_bytes", "expected"),
    [
        pytest.param(6, 6, 1, id="rounded-up"),
        pytest.param(50 * MIB, 100 * MIB, 362, id="three-times-the-archive"),
        pytest.param(53_243_536, 77_257_728, 281, id="default-image"),
    ],
)
def test_a_guest_needs_room_for_the_archive_and_twice_its_files(
    kernel_bytes: int, initrd_bytes: int, expected: int
) -> None:
    assert least_memory_mib(kernel_bytes, initrd_bytes) == expected
