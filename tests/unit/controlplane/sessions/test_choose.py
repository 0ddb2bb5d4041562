from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controlplane.api.manifest import Manifest, SetReference
from controlplane.api.types import ArtifactPhase
from controlplane.sessions.choose import choose_key
from controlplane.sessions.decision import Decision, StartReason
from tests.fakes.session_world import (
    NOW,
    make_artifact,
    make_class,
    make_hash,
    make_manifest,
    make_snapshot,
)

HASH = make_hash()
SNAPSHOT = make_snapshot()


def choose(manifest: Manifest | None, session_hash: str = HASH) -> Decision:
    return choose_key(SNAPSHOT, manifest, make_class(), session_hash)


def changed(**members: Any) -> Manifest:
    return msgspec.structs.replace(make_manifest(SNAPSHOT), **members)


def test_a_ready_set_of_the_same_hash_is_the_intent() -> None:
    decision = choose(make_manifest(SNAPSHOT))
    assert decision == Decision("key-1", StartReason.RESTORED_INTENT, "python-ready")


def test_no_manifest_is_no_active_set() -> None:
    assert choose(None).reason is StartReason.NO_ACTIVE_SET


@pytest.mark.parametrize("reference", [None, SetReference(), SetReference(snapshot_key="gone")])
def test_an_absent_empty_or_dangling_reference_is_no_active_set(
    reference: SetReference | None,
) -> None:
    assert choose(changed(active_set_ref=reference)).reason is StartReason.NO_ACTIVE_SET


def test_a_pending_set_serves_nobody() -> None:
    manifest = changed(active_set_ref=None, pending_set_ref=SetReference(snapshot_key="key-1"))
    assert choose(manifest).reason is StartReason.NO_ACTIVE_SET


def test_a_tombstone_serves_nobody() -> None:
    assert choose(changed(deleted_at=NOW)).reason is StartReason.NO_ACTIVE_SET


@pytest.mark.parametrize("member", ["uid", "name", "kind", "api_version"])
def test_a_manifest_of_somebody_else_is_corrupt(member: str) -> None:
    owner = make_manifest(SNAPSHOT).owner_ref
    assert owner is not None
    other = msgspec.structs.replace(owner, **{member: "other"})
    assert choose(changed(owner_ref=other)).reason is StartReason.MANIFEST_CORRUPT


def test_a_manifest_without_owner_is_corrupt() -> None:
    assert choose(changed(owner_ref=None)).reason is StartReason.MANIFEST_CORRUPT


def test_a_manifest_of_a_newer_schema_is_not_used() -> None:
    assert choose(changed(schema_version=2)).reason is StartReason.MANIFEST_CORRUPT


def test_a_set_under_another_key_than_its_own_is_corrupt() -> None:
    sets = make_manifest(SNAPSHOT).artifact_sets or {}
    manifest = changed(
        artifact_sets={"other": sets["key-1"]}, active_set_ref=SetReference(snapshot_key="other")
    )
    assert choose(manifest).reason is StartReason.MANIFEST_CORRUPT


@pytest.mark.parametrize("session_hash", ["sha256:" + "0" * 64, ""])
def test_another_hash_starts_cold(session_hash: str) -> None:
    assert choose(make_manifest(SNAPSHOT), session_hash).reason is StartReason.HASH_MISMATCH


def test_an_empty_hash_on_both_sides_is_no_match() -> None:
    manifest = changed(artifact_sets={"key-1": make_set(snapshot_hash="")})
    assert choose(manifest, "").reason is StartReason.HASH_MISMATCH


def make_set(**members: Any) -> Any:
    sets = make_manifest(SNAPSHOT).artifact_sets or {}
    return msgspec.structs.replace(sets["key-1"], **members)


@pytest.mark.parametrize(
    "wrong",
    [
        {"phase": ArtifactPhase.UNAVAILABLE},
        {"phase": ArtifactPhase.CREATING},
        {"phase": ArtifactPhase.FAILED},
        {"provider_name": "other.example.org"},
        {"provider_name": ""},
        {"snapshot_key": "key-0"},
        {"snapshot_hash": "sha256:" + "1" * 64},
    ],
    ids=lambda wrong: "-".join(map(str, *wrong.items())),
)
def test_an_artifact_that_does_not_fit_is_not_ready(wrong: dict[str, Any]) -> None:
    unfit = make_artifact("key-1", HASH, **wrong)
    manifest = changed(artifact_sets={"key-1": make_set(artifacts=(unfit,))})
    assert choose(manifest).reason is StartReason.NO_READY_ARTIFACT
    fit = make_artifact("key-1", HASH, node_name="node-b")
    manifest = changed(artifact_sets={"key-1": make_set(artifacts=(unfit, fit))})
    assert choose(manifest).key == "key-1"


@pytest.mark.parametrize("artifacts", [None, ()])
def test_a_set_without_artifacts_is_not_ready(artifacts: Any) -> None:
    manifest = changed(artifact_sets={"key-1": make_set(artifacts=artifacts)})
    assert choose(manifest).reason is StartReason.NO_READY_ARTIFACT
