"""A person sees what failed, and what was not measured."""

from __future__ import annotations

from bench.bundle import Cache, Sample
from bench.suites.outcomes import Outcomes, reason_of
from bench.suites.samples import Benchmark, Info, _Stats
from bench.suites.tables import failed, shortened


def sample(value: float | None, number: int = 0, cache: Cache = "warm", **dims: str) -> Sample:
    return Sample(
        series="fork", machine_kind="qemu", cache=cache, unit="ms", value=value, round=number,
        at_s=0.0, dims=dims, error=None if value is not None else "it hung up",
    )  # fmt: skip


def test_what_failed_is_told_in_words() -> None:
    lines = failed([sample(1.0), sample(None, 1)], {"test_qmp.py::test_a_question": "no QEMU"})
    assert lines == [
        "failed: qmp.a_question: no QEMU",
        "failed: 1 of 2 rounds of fork: it hung up",
    ]


def test_what_was_shortened_or_left_out_is_told() -> None:
    short = Benchmark("test_cold.py::test_a", _Stats([1.0], 1, 1), Info(wanted=5))
    outcomes = Outcomes(left_out=["test_fan_out.py::test_forks_at_once[128]"])
    assert shortened([short], outcomes) == [
        "shortened: cold.a: 1 of 5 rounds",
        "left out: fan_out.forks_at_once[128]",
    ]


def test_the_error_is_told_and_not_where_it_was_raised() -> None:
    text = "def f():\n>   raise OSError()\nE   OSError: no such file\n\na.py:3: OSError"
    assert reason_of(text) == "OSError: no such file"
    assert reason_of("Killed") == "Killed"
    assert reason_of("") == "no reason was given"
