"""The fake's faults do what they say."""

from __future__ import annotations

import pytest

from controlplane.api.manifest import Manifest
from controlplane.errors import ConflictError, UnavailableError
from controlplane.store.store import OwnerKey
from tests.fakes.store import MemoryStore, StoreFault

KEY = OwnerKey("ns", "s", "u")


def test_a_lost_reply_hides_a_write_that_happened() -> None:
    store = MemoryStore()
    store.fail_next("put", StoreFault.LOST_REPLY)
    with pytest.raises(UnavailableError):
        store.put(KEY, Manifest(rebuild_seq=1), None)
    stored = store.get(KEY)
    assert stored is not None
    assert stored.manifest.rebuild_seq == 1


def test_an_unavailable_store_wrote_nothing() -> None:
    store = MemoryStore()
    store.fail_next("put", StoreFault.UNAVAILABLE)
    with pytest.raises(UnavailableError):
        store.put(KEY, Manifest(), None)
    assert store.get(KEY) is None
    assert store.writes == 0


def test_a_stale_read_gives_what_was_there_before() -> None:
    store = MemoryStore()
    first = store.put(KEY, Manifest(rebuild_seq=1), None)
    second = store.put(KEY, Manifest(rebuild_seq=2), first)
    store.fail_next("get", StoreFault.STALE)
    stale, fresh = store.get(KEY), store.get(KEY)
    assert stale is not None
    assert fresh is not None
    assert (stale.version, fresh.version) == (first, second)
    with pytest.raises(ConflictError):
        store.put(KEY, Manifest(), stale.version)


def test_a_stale_read_of_a_new_key_finds_nothing_of_a_deleted_one_finds_it() -> None:
    store = MemoryStore()
    store.put(KEY, Manifest(), None)
    store.fail_next("get", StoreFault.STALE, StoreFault.STALE)
    assert store.get(KEY) is None
    store.delete(KEY)
    assert store.get(KEY) is not None


def test_a_conflict_can_be_forced() -> None:
    store = MemoryStore()
    version = store.put(KEY, Manifest(), None)
    store.fail_next("put", StoreFault.CONFLICT)
    store.fail_next("delete", StoreFault.CONFLICT)
    with pytest.raises(ConflictError):
        store.put(KEY, Manifest(), version)
    with pytest.raises(ConflictError):
        store.delete(KEY)
    store.delete(KEY, version)


def test_each_step_is_announced() -> None:
    steps: list[str] = []
    store = MemoryStore(on_step=steps.append)
    store.put(KEY, Manifest(), None)
    assert list(store.list()) == [KEY]
    store.get(KEY)
    store.delete(KEY)
    assert steps == ["put", "list", "get", "delete"]
