"""Every store keeps the same contract, the fake included."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from controlplane.api.manifest import Manifest, SetReference
from controlplane.errors import ConflictError, CorruptError, InvariantError, UnavailableError
from controlplane.store.store import ArtifactStore, OwnerKey
from tests.adapters.controlplane.store.backends import Backend
from tests.adapters.controlplane.store.samples import KEY, manifest

NEWER = """{"x-top": {"deep": [1, 2.5, null]}, "rebuildSeq" : 1,
  "artifactSets": {"k": {"x-set": "s", "snapshotHash": "h", "snapshotKey": "k",
    "artifacts": [{"x-art": 9007199254740993, "nodeName": "n", "snapshotKey": "k",
      "snapshotHash": "h", "phase": "Ready", "retry": {"x-retry": true}}]}},
  "ownerRef": {"x-owner": 1, "uid": "6f1c"}, "activeSetRef": {"snapshotKey": "k", "x-ref": 1},
  "pendingSetRef": {}, "retiredSets": [{"snapshotKey": "old", "x-retired": 1}]}"""


async def _keys(store: ArtifactStore) -> list[OwnerKey]:
    return sorted([key async for key in store.list()])


async def test_what_is_put_is_what_is_got(store: ArtifactStore) -> None:
    version = await store.put(KEY, manifest(), None)
    stored = await store.get(KEY)
    assert stored is not None
    assert stored.manifest == manifest()
    assert stored.version == version


async def test_absent_is_none(store: ArtifactStore) -> None:
    assert await store.get(KEY) is None
    assert await _keys(store) == []


async def test_defect_11_version_is_the_exact_stored_text(
    backend: Backend, store: ArtifactStore
) -> None:
    version = await store.put(KEY, manifest(), None)
    assert backend.read_raw(str(KEY)) == version.encode()


async def test_defect_10_a_text_of_another_program_does_not_conflict(
    backend: Backend, store: ArtifactStore
) -> None:
    await store.get(KEY)
    backend.write_raw(str(KEY), NEWER.encode())
    stored = await store.get(KEY)
    assert stored is not None
    assert stored.version == NEWER
    await store.put(KEY, stored.manifest, stored.version)


async def test_unknown_members_survive_a_write_at_every_level(
    backend: Backend, store: ArtifactStore
) -> None:
    await store.get(KEY)
    backend.write_raw(str(KEY), NEWER.encode())
    stored = await store.get(KEY)
    assert stored is not None
    await store.put(KEY, stored.manifest, stored.version)
    written: dict[str, Any] = json.loads(backend.read_raw(str(KEY)) or b"")
    expected = json.loads(NEWER)
    assert written.pop("pendingSetRef", {}) == expected.pop("pendingSetRef")
    assert written == expected


async def test_put_without_a_version_refuses_what_exists(
    backend: Backend, store: ArtifactStore
) -> None:
    version = await store.put(KEY, manifest(), None)
    with pytest.raises(ConflictError):
        await store.put(KEY, manifest(2), None)
    assert backend.read_raw(str(KEY)) == version.encode()


async def test_put_with_a_version_refuses_what_is_gone(
    backend: Backend, store: ArtifactStore
) -> None:
    version = await store.put(KEY, manifest(), None)
    await store.delete(KEY)
    with pytest.raises(ConflictError):
        await store.put(KEY, manifest(2), version)
    assert backend.read_raw(str(KEY)) is None


@pytest.mark.parametrize("version", ["", "nonsense", "{}"])
async def test_put_with_a_version_that_never_was_conflicts(
    store: ArtifactStore, version: str
) -> None:
    await store.put(KEY, manifest(), None)
    with pytest.raises(ConflictError):
        await store.put(KEY, manifest(2), version)


@pytest.mark.usefixtures("patient")
async def test_of_two_writers_one_wins(backend: Backend, store: ArtifactStore) -> None:
    version = await store.put(KEY, manifest(), None)
    other = backend.open()
    try:
        outcomes = await asyncio.gather(
            *(
                one.put(KEY, manifest(seq), version)
                for seq, one in enumerate([store, other] * 8, start=2)
            ),
            return_exceptions=True,
        )
    finally:
        await other.close()
    won = [text for text in outcomes if isinstance(text, str)]
    assert len(won) == 1
    assert {type(one) for one in outcomes} == {str, ConflictError}
    assert backend.read_raw(str(KEY)) == won[0].encode()


async def test_a_change_and_back_by_another_is_no_conflict(store: ArtifactStore) -> None:
    first = await store.put(KEY, manifest(1), None)
    second = await store.put(KEY, manifest(2), first)
    assert await store.put(KEY, manifest(1), second) == first


async def test_delete_of_what_is_absent_succeeds(store: ArtifactStore) -> None:
    await store.delete(KEY)
    await store.delete(KEY, "a version")


async def test_delete_with_an_old_version_keeps_the_new_text(store: ArtifactStore) -> None:
    old = await store.put(KEY, manifest(1), None)
    new = await store.put(KEY, manifest(2), old)
    with pytest.raises(ConflictError):
        await store.delete(KEY, old)
    await store.delete(KEY, new)
    assert await store.get(KEY) is None


async def test_list_gives_our_keys_alone(backend: Backend, store: ArtifactStore) -> None:
    keys = [OwnerKey("team", f"s{number:04}", "u") for number in range(1200)]
    await store.put(keys[0], Manifest(), None)
    for key in keys[1:]:
        backend.write_raw(str(key), b"{}")
    for foreign in ("snapshot:team:runtime", "snapshot:SandboxSnapshot:a:b", "session:x"):
        backend.write_raw(foreign, b"{}")
    backend.write_raw("snapshot:SandboxSnapshot:a:b:c:d", b"{}")
    assert await _keys(store) == keys


async def test_list_can_be_left_half_way(backend: Backend, store: ArtifactStore) -> None:
    for number in range(3):
        await store.put(OwnerKey("team", f"s{number}", "u"), Manifest(), None)
    listing = store.list()
    assert await anext(listing) is not None
    await listing.aclose()  # type: ignore[attr-defined]
    assert len(await _keys(store)) == 3


@pytest.mark.parametrize(
    "raw",
    [b"", b"not json", b"[]", b'{"rebuildSeq": "x"}', b"\xff\xfe", b'{"schemaVersion": 99}'],
    ids=["empty", "no json", "list", "wrong type", "no text", "newer schema"],
)
async def test_a_corrupt_text_is_neither_used_nor_overwritten(
    backend: Backend, store: ArtifactStore, raw: bytes
) -> None:
    await store.get(KEY)
    backend.write_raw(str(KEY), raw)
    with pytest.raises(CorruptError, match=KEY.name):
        await store.get(KEY)
    with pytest.raises(ConflictError):
        await store.put(KEY, manifest(), None)
    assert backend.read_raw(str(KEY)) == raw


async def test_a_manifest_that_could_not_be_read_again_is_not_written(
    backend: Backend, store: ArtifactStore
) -> None:
    await store.get(KEY)
    dangling = Manifest(artifact_sets={"k": manifest().pending or pytest.fail("no set")})
    with pytest.raises(InvariantError):
        await store.put(KEY, dangling, None)
    assert backend.read_raw(str(KEY)) is None


async def test_a_dangling_reference_can_be_stored(store: ArtifactStore) -> None:
    await store.put(KEY, Manifest(active_set_ref=SetReference(snapshot_key="gone")), None)
    stored = await store.get(KEY)
    assert stored is not None
    assert stored.manifest.active is None


async def test_a_large_manifest_fits(store: ArtifactStore) -> None:
    large = manifest(nodes=tuple(f"node-{number}" for number in range(5000)))
    version = await store.put(KEY, large, None)
    await store.put(KEY, large, version)
    stored = await store.get(KEY)
    assert stored is not None
    assert stored.manifest == large


async def test_a_closed_store_says_so(backend: Backend) -> None:
    store = backend.open()
    await store.put(KEY, manifest(), None)
    await store.close()
    await store.close()
    with pytest.raises(UnavailableError, match="closed"):
        await store.get(KEY)
    with pytest.raises(UnavailableError, match="closed"):
        await store.put(KEY, manifest(), None)
    with pytest.raises(UnavailableError, match="closed"):
        await _keys(store)


async def test_a_cancelled_read_does_not_disturb_the_next(store: ArtifactStore) -> None:
    other = OwnerKey("team", "other", "u")
    await store.put(KEY, manifest(1), None)
    await store.put(other, manifest(2), None)
    for turns in range(12):
        task = asyncio.ensure_future(store.get(KEY))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        stored = await store.get(other)
        assert stored is not None
        assert stored.manifest == manifest(2)
