"""A promise is judged by samples; without them it is not kept."""

from __future__ import annotations

from itertools import chain

import pytest

from bench.bundle import Sample
from bench.promises import Promise
from bench.suites.promised import judge_promises


def samples(series: str, values: list[float], unit: str = "ms", **dims: str) -> list[Sample]:
    return [
        Sample(
            series=series, machine_kind="qemu", cache="warm", unit=unit, value=value, round=n,
            at_s=0.0, dims=dims,
        )
        for n, value in enumerate(values)
    ]  # fmt: skip


def row(name: str, *series: list[Sample]) -> Promise:
    (found,) = [one for one in judge_promises([*chain(*series)]) if one.name == name]
    return found


def test_what_was_not_measured_is_not_kept() -> None:
    found = judge_promises([])
    assert not any(one.is_kept for one in found)
    assert all(one.measured.startswith("not measured: ") for one in found)


@pytest.mark.parametrize(("ours", "is_kept"), [(1.09, True), (1.12, False)])
def test_a_fork_is_judged_against_the_bare_one_of_its_round(ours: float, is_kept: bool) -> None:
    floor = [200.0, 800.0, 210.0]
    found = row(
        "fork / bare fork",
        samples("fork", [ours * value for value in floor], request="numpy"),
        samples("fork.bare", floor, request="numpy"),
    )
    assert found.is_kept is is_kept


def test_a_round_that_failed_on_one_side_is_no_pair() -> None:
    ours = samples("fork", [100.0, 9000.0, 100.0], request="numpy")
    floor = [one for one in samples("fork.bare", [100.0] * 3, request="numpy") if one.round != 1]
    found = row("fork / bare fork", ours, floor)
    assert found.is_kept
    assert "2 pairs" in found.measured


@pytest.mark.parametrize(("cold", "is_kept"), [(1199.0, False), (1200.0, True)])
def test_cold_is_twelve_forks(cold: float, is_kept: bool) -> None:
    found = row(
        "cold / fork, emulated",
        samples("fork", [100.0], request="numpy"),
        samples("cold", [cold], request="numpy"),
    )
    assert found.is_kept is is_kept


def test_a_tail_is_not_told_from_too_few_samples() -> None:
    few = row("readiness noticed", samples("readiness", [1.0] * 499, "us"),
              samples("readiness.wait", [0.0] * 499, "us"))  # fmt: skip
    assert not few.is_kept
    assert "do not carry a p99" in few.measured


def test_overload_is_judged_by_what_was_let_in() -> None:
    found = row(
        "p95 let in, 10x load / knee",
        samples("burst.accepted", [100.0] * 100, load="knee"),
        samples("burst.accepted", [210.0] * 100, load="overload"),
        samples("burst.refused", [1.0] * 500, load="overload"),
    )
    assert not found.is_kept
    assert found.measured.startswith("2.10 ")


def test_who_was_let_in_and_came_too_late_waited_for_ever() -> None:
    found = row(
        "p95 let in, 10x load / knee",
        samples("burst.accepted", [100.0] * 100, load="knee"),
        samples("burst.accepted", [110.0] * 100, load="overload"),
        samples("burst.late", [200.0] * 10, load="overload"),
    )
    assert not found.is_kept
    assert found.measured.startswith("inf ")


SIZES = ("1 snapshots", "100 snapshots", "10000 snapshots")


@pytest.mark.parametrize(("largest", "is_kept"), [(440.0, True), (700.0, False)])
def test_a_decision_takes_as_long_with_many_snapshots(largest: float, is_kept: bool) -> None:
    times = zip(SIZES, (400.0, 410.0, largest), strict=True)
    found = row(
        "decision, 10,000 snapshots / 1",
        *(samples("lookup.own", [us] * 30, "us", case=case) for case, us in times),
    )
    assert found.is_kept is is_kept


@pytest.mark.parametrize(("silent_us", "is_kept"), [(150e3, True), (200e3, False)])
def test_one_late_decision_without_a_store_is_enough(silent_us: float, is_kept: bool) -> None:
    found = row(
        "decision without a store",
        samples("lookup", [700.0] * 30, "us", case="dead store"),
        samples("lookup", [100e3] * 30 + [silent_us], "us", case="silent store"),
    )
    assert found.is_kept is is_kept
