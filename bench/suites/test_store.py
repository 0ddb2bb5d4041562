"""What do reading and writing a manifest in the shared store cost?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
import uvloop

from bench.lookup import Population, make_population, redis_server
from bench.suites.series import Series
from controlplane.store.endpoint import Credentials, parse_endpoint
from controlplane.store.redis import RedisStore


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """A loop for one test."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as made:
        yield made


@pytest.mark.budget(quick_s=5, quick=1000, full=5000)
def test_a_manifest_is_read_and_replaced(series: Series, runner: asyncio.Runner) -> None:
    """store.get, store.put: each from the call to its return; a real Redis on a Unix socket.

    A put replaces the version that the get has read, in one script on the server.
    """
    population = make_population(1)
    reads, writes = series.once(lambda: runner.run(_calls(population, series.wanted)))
    series.also_all("store.get", reads, unit="us")
    series.also_all("store.put", writes, unit="us")


async def _calls(population: Population, rounds: int) -> tuple[list[float], list[float]]:
    key = population.wanted
    reads, writes = [], []
    async with redis_server() as (url, _):
        store = RedisStore(parse_endpoint(url, Credentials()))
        try:
            await store.put(key, population.manifests[key], None)
            for _ in range(rounds):
                begun_ns = time.perf_counter_ns()
                stored = await store.get(key)
                between_ns = time.perf_counter_ns()
                assert stored is not None
                await store.put(key, stored.manifest, stored.version)
                writes.append((time.perf_counter_ns() - between_ns) / 1e3)
                reads.append((between_ns - begun_ns) / 1e3)
        finally:
            await store.close()
    return reads, writes
