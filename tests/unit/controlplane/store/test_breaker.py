"""The breaker: closed, open, half open."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.api.manifest import Manifest
from controlplane.errors import ConflictError, CorruptError, UnavailableError
from controlplane.store.breaker import BreakerLimits, BreakerState, BreakerStore
from controlplane.store.store import OwnerKey, Stored
from tests.fakes.store import FakeStore, MemoryStore, StoreFault

KEY = OwnerKey("ns", "s", "u")
LIMITS = BreakerLimits(budget_s=5.0, failures=3, open_s=10.0)


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class SilentStore(FakeStore):
    """Never answers a read."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def get(self, key: OwnerKey) -> Stored | None:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError


def _state(store: BreakerStore) -> BreakerState:
    """Read anew each time: it moves with the clock."""
    return store.state


def _broken(memory: MemoryStore, clock: Clock) -> BreakerStore:
    memory.set_down(True)
    return BreakerStore(FakeStore(memory), clock, LIMITS)


async def _fail(store: BreakerStore, times: int) -> None:
    for _ in range(times):
        with pytest.raises(UnavailableError):
            await store.get(KEY)


async def test_a_read_of_a_well_store_passes() -> None:
    memory = MemoryStore()
    memory.put(KEY, Manifest(), None)
    store = BreakerStore(FakeStore(memory), Clock(), LIMITS)
    assert await store.get(KEY) is not None
    assert _state(store) is BreakerState.CLOSED


async def test_it_opens_after_failures_in_a_row_and_leaves_the_store_alone() -> None:
    memory, clock = MemoryStore(), Clock()
    store = _broken(memory, clock)
    await _fail(store, 2)
    assert _state(store) is BreakerState.CLOSED
    await _fail(store, 1)
    assert _state(store) is BreakerState.OPEN
    memory.set_down(False)
    with pytest.raises(UnavailableError, match="left alone") as caught:
        await store.get(KEY)
    assert caught.value.delay_s == LIMITS.open_s
    assert memory.reads == 0


async def test_a_success_in_between_starts_the_count_anew() -> None:
    memory, clock = MemoryStore(), Clock()
    store = _broken(memory, clock)
    for _ in range(4):
        await _fail(store, 2)
        memory.set_down(False)
        assert await store.get(KEY) is None
        memory.set_down(True)
    assert _state(store) is BreakerState.CLOSED


async def test_a_probe_that_succeeds_closes_it() -> None:
    memory, clock = MemoryStore(), Clock()
    store = _broken(memory, clock)
    await _fail(store, 3)
    memory.set_down(False)
    clock.now += LIMITS.open_s
    assert _state(store) is BreakerState.HALF_OPEN
    assert await store.get(KEY) is None
    assert _state(store) is BreakerState.CLOSED


async def test_a_probe_that_fails_opens_it_for_as_long_again() -> None:
    memory, clock = MemoryStore(), Clock()
    store = _broken(memory, clock)
    await _fail(store, 3)
    clock.now += LIMITS.open_s
    await _fail(store, 1)
    assert _state(store) is BreakerState.OPEN
    clock.now += LIMITS.open_s - 0.1
    assert _state(store) is BreakerState.OPEN


async def test_one_probe_at_a_time() -> None:
    silent, clock = SilentStore(), Clock()
    store = BreakerStore(silent, clock, BreakerLimits(budget_s=5.0, failures=1, open_s=10.0))
    first = asyncio.ensure_future(store.get(KEY))
    await asyncio.sleep(0)
    store._fail()
    clock.now += 10.0
    probe = asyncio.ensure_future(store.get(KEY))
    await asyncio.sleep(0)
    await _fail(store, 5)
    assert silent.asked == 2
    for task in (probe, first):
        task.cancel()
    await asyncio.gather(probe, first, return_exceptions=True)
    assert _state(store) is BreakerState.HALF_OPEN


async def test_no_answer_within_the_budget_is_a_failure() -> None:
    store = BreakerStore(SilentStore(), Clock(), BreakerLimits(0.01, 1, 10.0))
    with pytest.raises(UnavailableError, match=r"within 0\.01 s"):
        await store.get(KEY)
    assert _state(store) is BreakerState.OPEN


async def test_a_caller_that_gives_up_says_nothing_of_the_store() -> None:
    store = BreakerStore(SilentStore(), Clock(), BreakerLimits(5.0, 1, 10.0))
    task = asyncio.ensure_future(store.get(KEY))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _state(store) is BreakerState.CLOSED


async def test_a_corrupt_text_is_an_answer() -> None:
    memory = MemoryStore()
    memory.texts[str(KEY)] = b"{"
    store = BreakerStore(FakeStore(memory), Clock(), BreakerLimits(5.0, 1, 10.0))
    with pytest.raises(CorruptError):
        await store.get(KEY)
    assert _state(store) is BreakerState.CLOSED


async def test_writes_pass_whatever_its_state() -> None:
    memory, clock = MemoryStore(), Clock()
    store = _broken(memory, clock)
    await _fail(store, 3)
    memory.set_down(False)
    version = await store.put(KEY, Manifest(), None)
    memory.fail_next("put", StoreFault.CONFLICT)
    with pytest.raises(ConflictError):
        await store.put(KEY, Manifest(), version)
    assert [key async for key in store.list()] == [KEY]
    await store.delete(KEY, version)
    await store.close()
    assert _state(store) is BreakerState.OPEN
