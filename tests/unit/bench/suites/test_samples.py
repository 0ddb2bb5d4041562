"""What pytest-benchmark wrote becomes samples; no failure is lost, none becomes a time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.suites.samples import Benchmark, decode_report, name_of, samples_of

NAME = "bench/suites/test_fork.py::test_a_fork"


def benchmark(data: list[float], iterations: int = 1, **info: Any) -> Benchmark:
    stats = {"data": data, "rounds": len(data), "iterations": iterations, "mean": 1.0}
    one = {"fullname": NAME, "stats": stats, "extra_info": info, "group": None}
    return decode_report(msgspec.json.encode({"benchmarks": [one], "datetime": "now"}))[0]


def test_every_round_is_a_sample_in_the_unit_of_its_series() -> None:
    found = samples_of(
        benchmark(
            [0.25, 0.5], series="fork", unit="ms", machine_kind="qemu", cache="warm",
            dims={"request": "numpy"}, at_s=[1010.0, 1011.5], steal_ms=[0.0, 30.0],
        ),
        1000.0,
    )  # fmt: skip
    assert [one.value for one in found] == [250.0, 500.0]
    assert [one.at_s for one in found] == [10.0, 11.5]
    assert [one.steal_ms for one in found] == [0.0, 30.0]
    assert {(one.series, one.machine_kind, one.cache) for one in found} == {
        ("fork", "qemu", "warm")
    }


def test_a_round_that_failed_has_words_and_no_value() -> None:
    first, second = samples_of(
        benchmark([0.2, 0.001], series="fork", unit="ms", failures={"1": "it hung up"}), 0.0
    )
    assert (first.value, first.error) == (200.0, None)
    assert (second.value, second.error) == (None, "it hung up")


def test_the_time_of_a_batch_is_no_sample() -> None:
    also = [{"series": "inject", "value": 90.0, "round": n, "unit": "us"} for n in range(3)]
    found = samples_of(benchmark([12.0], is_batch=True, machine_kind="stand-in", also=also), 0.0)
    assert [(one.series, one.value, one.round) for one in found] == [
        ("inject", 90.0, 0), ("inject", 90.0, 1), ("inject", 90.0, 2),
    ]  # fmt: skip


def test_what_a_round_adds_is_of_its_machine_unless_it_says_otherwise() -> None:
    also = [
        {"series": "fork.bare", "value": 1.0, "round": 0},
        {"series": "model", "value": 1.0, "round": 0, "machine_kind": "none", "cache": "cold"},
    ]
    _, bare, model = samples_of(
        benchmark([0.1], unit="ms", machine_kind="kvm", cache="warm", also=also), 0.0
    )
    assert (bare.machine_kind, bare.cache) == ("kvm", "warm")
    assert (model.machine_kind, model.cache) == ("none", "cold")


def test_an_added_failure_is_counted() -> None:
    also = [{"series": "burst.accepted", "error": "refused to answer", "round": 0}]
    (found,) = samples_of(benchmark([1.0], is_batch=True, also=also), 0.0)
    assert (found.value, found.error) == (None, "refused to answer")


def test_a_mean_of_many_calls_says_of_how_many() -> None:
    (found,) = samples_of(benchmark([2e-6], iterations=500), 0.0)
    assert found.dims == {"calls": "500"}
    assert found.value == pytest.approx(2.0)
    assert (found.series, found.unit, found.machine_kind) == ("fork.a_fork", "us", "none")


def test_fewer_rounds_than_wanted_are_told() -> None:
    assert benchmark([0.1, 0.1], wanted=30).shortened == (2, 30)
    assert benchmark([0.1, 0.1], wanted=2).shortened is None
    assert benchmark([9.0], wanted=1000, is_batch=True).shortened is None


def test_a_file_that_is_no_report_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="benchmarks"):
        decode_report(b'{"machines": []}')


def test_a_test_names_its_series() -> None:
    assert name_of("test_journal.py::test_x[1]") == "journal.x[1]"
