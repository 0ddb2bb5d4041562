"""What does the decision about a session cost?"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import uvloop
from pytest_benchmark.fixture import BenchmarkFixture

from bench import lookup
from bench.lookup import Sample, hash_alone, make_population
from bench.suites.series import Series
from controlplane.store.codec import decode, encode


def test_the_hash_of_a_session(benchmark: BenchmarkFixture) -> None:
    """From a session's pod spec to its snapshot hash, as every lookup makes it."""
    assert benchmark(hash_alone, make_population(1))


def test_a_manifest_is_read(benchmark: BenchmarkFixture) -> None:
    """The record of one SandboxSnapshot with ten nodes, from the store's bytes to the manifest."""
    population = make_population(1)
    raw = encode(population.wanted, population.manifests[population.wanted], None).encode()
    assert benchmark(decode, population.wanted, raw).manifest


@pytest.mark.budget(quick_s=30, quick=600, full=3000)
def test_a_decision_with_a_store(series: Series) -> None:
    """From a session's start to its restore intent: index, one GET from a real Redis, hash.

    With 1, 100, 10,000 snapshots, in turn in one run, beside its two dear parts. lookup.own: the
    same without the time in which this process or Redis waited for a processor.
    """

    async def measure() -> Mapping[str, Sequence[Sample]]:
        async with lookup.redis_server() as (url, pid):
            return await lookup.measure_present(url, pid, series.wanted)

    _add(series, series.once(lambda: uvloop.run(measure())))


@pytest.mark.budget(quick_s=10, quick=300, full=3000)
def test_a_decision_without_a_store(series: Series) -> None:
    """From a session's start to the decision that it starts cold: nobody listens, or is silent.

    Likewise behind an open breaker.
    """

    async def measure() -> Mapping[str, Sequence[Sample]]:
        with tempfile.TemporaryDirectory(prefix="kv-") as directory:
            return await lookup.measure_absent(Path(directory), series.wanted)

    _add(series, series.once(lambda: uvloop.run(measure())))


def _add(series: Series, found: Mapping[str, Sequence[Sample]]) -> None:
    for name, samples in found.items():
        case = name.removeprefix("lookup, ")
        series.also_all("lookup", [one.wall_us for one in samples], unit="us", case=case)
        own = [one.wall_us - one.waited_us for one in samples]
        series.also_all("lookup.own", own, unit="us", case=case)
