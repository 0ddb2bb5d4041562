"""What the cold forks' samples are made into."""

from __future__ import annotations

import pytest

from agentd.errors import InvariantError
from bench.pager.qemu_cold import judge
from bench.pager.qemu_forks import WAYS, Fork, Forks


def found(**stalled_ms: list[float]) -> Forks:
    """Forks that waited so long, by way; those of the other ways did not wait."""
    waits = {name.replace("_", "-"): values for name, values in stalled_ms.items()}
    return {
        way: [Fork(500.0, one, 90.0) for one in waits.get(way, [0.0, 0.0, 0.0])] for way in WAYS
    }


def test_the_promise_is_about_the_waits_of_both_ways() -> None:
    kept = judge(found(mapped_cold=[90.0, 100.0, 200.0], loaded=[0.0, 15.0, 40.0]))[0]
    assert (kept.is_kept, kept.measured[:4]) == (True, "0.15")
    broken = judge(found(mapped_cold=[90.0, 100.0, 200.0], loaded=[0.0, 16.0, 16.0]))[0]
    assert (broken.is_kept, broken.measured[:4]) == (False, "0.16")


def test_every_sample_is_kept() -> None:
    promise = judge(found(mapped_cold=[90.0, 100.0, 200.0]))[0]
    assert [one["stalled_ms"] for one in promise.samples["mapped-cold"]] == [90.0, 100.0, 200.0]
    assert set(promise.samples) == set(WAYS)


def test_a_run_in_which_nobody_waited_has_measured_nothing() -> None:
    with pytest.raises(InvariantError, match="waited for no disk"):
        judge(found(mapped_cold=[0.0, 0.0, 100.0]))
    with pytest.raises(InvariantError, match="waited for no disk"):
        judge(found(mapped_cold=[50.0] * 3, mapped_warm=[50.0] * 3))


def test_loads_and_whole_forks_are_told() -> None:
    told = {one.name: one.measured for one in judge(found(mapped_cold=[1.0] * 3))}
    assert {f"whole fork, {way}" for way in WAYS} <= set(told)
    assert told["load alone, ahead"].startswith("90")
