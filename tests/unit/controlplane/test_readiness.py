"""What the control plane says of its own health, while its parts break and are mended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry

from controlplane.health import Health, PartState, Readiness, describe_states
from controlplane.metrics import HealthMetrics, ProgramMetrics, serve_metrics
from controlplane.sessions.readiness import StoreProbe, judge_certificate, judge_watches
from controlplane.sessions.serving import ServingContext
from tests.fakes.store import FakeStore, MemoryStore

READY, DEGRADED, NOT_READY = Readiness.READY, Readiness.DEGRADED, Readiness.NOT_READY


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0.01)


class Following:
    """An informer of which only its state matters."""

    def __init__(self, has_synced: bool, error: str = "") -> None:
        self.resource = "sandboxes"
        self.has_synced = has_synced
        self.last_error = error or None


def watches(*informers: Any) -> Readiness:
    return judge_watches(informers).readiness


def test_watches_count_from_their_first_list() -> None:
    assert watches(Following(True), Following(False)) is NOT_READY
    assert watches(Following(True), Following(True)) is READY
    assert watches(Following(True), Following(True, "refused")) is DEGRADED


def test_a_certificate_counts_while_it_is_valid() -> None:
    serving: Any = ServingContext()
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert judge_certificate(serving, now).readiness is NOT_READY
    serving._loaded, serving.not_after = (b"", b""), now + timedelta(days=1)
    assert judge_certificate(serving, now).readiness is READY
    assert judge_certificate(serving, now + timedelta(days=2)).readiness is NOT_READY


async def test_a_store_that_goes_degrades_until_it_is_back() -> None:
    """It does not take replicas out of service: admission would end, and all share the store."""
    memory = MemoryStore()
    probe = StoreProbe(FakeStore(memory), every_s=0.01)
    assert probe.look().readiness is DEGRADED
    task = asyncio.create_task(probe.run())
    await until(lambda: probe.look().readiness is READY)
    memory.set_down(True)
    await until(lambda: probe.look().readiness is DEGRADED)
    memory.set_down(False)
    await until(lambda: probe.look().readiness is READY)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_store_that_never_answers_degrades() -> None:
    class Silent(FakeStore):
        async def get(self, key: object) -> None:  # type: ignore[override]
            await asyncio.Event().wait()

    probe = StoreProbe(Silent(MemoryStore()), every_s=0.01, probe_s=0.01)
    task = asyncio.create_task(probe.run())
    await until(lambda: "no answer" in probe.look().detail)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_no_store_is_told() -> None:
    assert StoreProbe(None).look().readiness is DEGRADED


def test_the_worst_part_is_what_the_whole_is() -> None:
    def whole(*found: Readiness) -> Readiness:
        states = {str(n): PartState(one, "") for n, one in enumerate(found)}
        return describe_states(states)[0]

    assert whole() is READY
    assert whole(READY, DEGRADED) is DEGRADED
    assert whole(DEGRADED, NOT_READY, READY) is NOT_READY


async def test_readiness_is_served_with_every_part() -> None:
    registry, health = CollectorRegistry(), Health()
    ProgramMetrics(registry).is_enabled.set(1)
    HealthMetrics(health, registry)
    state = NOT_READY
    health.add("watches", lambda: PartState(state, "of the test"))
    async with (
        serve_metrics(registry, health, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):

        async def ask(path: str) -> tuple[int, Any]:
            async with session.get(path) as reply:
                return reply.status, await reply.json()

        assert (await ask("/healthz"))[0] == 200
        part = {"state": "not_ready", "detail": "of the test"}
        assert await ask("/readyz") == (503, {"status": "not_ready", "parts": {"watches": part}})
        assert (await ask("/healthz"))[0] == 200
        state = DEGRADED
        assert (await ask("/readyz"))[0] == 200
        async with session.get("/metrics") as reply:
            assert 'agentcube_snapstart_part_ready{part="watches"} 0.0' in await reply.text()
        state = READY
        assert (await ask("/readyz"))[1]["status"] == "ready"
