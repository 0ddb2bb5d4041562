"""What the cold forks' samples are made into."""

from __future__ import annotations

import pytest

from agentd.errors import InvariantError
from agentd.wire.read_ahead import FORMAT_VERSION, PageRun, ReadAhead
from bench.pager.qemu_cold import judge
from bench.pager.qemu_forks import WAYS, Fork, Found, Learned, fit

LEARNED = Learned(ReadAhead(FORMAT_VERSION, "id", 1 << 20, 3, (PageRun(0, 256),)), 0.9, 0.8)


def found(**stalled_ms: list[float]) -> Found:
    """Forks that waited so long; those of the other ways did not wait."""
    result = Found(LEARNED)
    for way in WAYS:
        waits = stalled_ms.get(way, [0.0, 0.0, 0.0])
        result.forks[way] = [Fork(500.0, wait, 1.0) for wait in waits]
    return result


def test_the_promise_is_about_the_waits_of_both_ways() -> None:
    promise = judge(found(plain=[90.0, 100.0, 200.0], ahead=[0.0, 15.0, 40.0]))[0]
    assert (promise.is_kept, promise.measured[:4]) == (True, "0.15")
    promise = judge(found(plain=[90.0, 100.0, 200.0], ahead=[0.0, 16.0, 16.0]))[0]
    assert (promise.is_kept, promise.measured[:4]) == (False, "0.16")


def test_every_sample_is_kept() -> None:
    promise = judge(found(plain=[90.0, 100.0, 200.0]))[0]
    assert [one["stalled_ms"] for one in promise.samples["plain"]] == [90.0, 100.0, 200.0]
    assert set(promise.samples) == set(WAYS)


def test_a_run_in_which_nobody_waited_has_measured_nothing() -> None:
    with pytest.raises(InvariantError, match="waited for no disk"):
        judge(found(plain=[0.0, 0.0, 100.0]))
    with pytest.raises(InvariantError, match="waited for no disk"):
        judge(found(plain=[50.0] * 3, warm=[50.0] * 3))


def test_what_was_learned_is_told() -> None:
    words = judge(found(plain=[1.0] * 3))[-1].measured
    assert words.startswith("256 (1 MiB) in 1 runs, of 3 forks")
    assert words.endswith("recall 0.900, precision 0.800")


def test_a_record_fits_by_what_the_others_agree_on() -> None:
    others = [bytes([1, 1, 0, 0] + 28 * [0]), bytes([1, 1, 0, 1] + 28 * [0])]
    record = bytes([1, 0, 1, 1] + 28 * [0])
    recall, precision = fit(others, record)
    assert recall == pytest.approx(1 / 3)
    assert precision == pytest.approx(1 / 2)
