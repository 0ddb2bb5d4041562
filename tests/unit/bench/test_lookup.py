from __future__ import annotations

from typing import Any

import pytest

from bench.lookup import Sample, describe, hash_alone, judge, make_population

KEPT = {
    "lookup, 1 snapshots": 400.0,
    "lookup, 100 snapshots": 410.0,
    "lookup, 10000 snapshots": 420.0,
    "lookup, dead store": 700.0,
    "lookup, dead store, breaker open": 30.0,
    "lookup, silent store": 150_000.0,
    "lookup, silent store, breaker open": 30.0,
}


def lines(**changed: float) -> list[dict[str, Any]]:
    values = KEPT | changed
    return [describe(name, [Sample(value, 0.0)] * 30) for name, value in values.items()]


def test_promises_that_are_kept_break_nothing() -> None:
    assert judge(lines()) == []


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("lookup, 100 snapshots", 1000.0, "p99 1000.0 us"),
        ("lookup, 10000 snapshots", 700.0, "not flat"),
        ("lookup, dead store", 200_000.0, "max 200000.0 us"),
        ("lookup, silent store, breaker open", 1000.0, "breaker open: p99"),
    ],
)
def test_a_broken_promise_is_named(metric: str, value: float, text: str) -> None:
    assert any(text in one for one in judge(lines(**{metric: value})))


def test_waiting_for_a_processor_is_told_apart() -> None:
    line = describe("one", [Sample(500.0, 100.0)] * 30)
    assert (line["p50_us"], line["own_p50_us"]) == (500.0, 400.0)


def test_a_session_of_a_population_has_the_hash_of_its_set() -> None:
    population = make_population(30)
    active = population.manifests[population.wanted].active
    assert active is not None
    assert hash_alone(population) == active.snapshot_hash
