"""Stored texts: read generously, written without losing what is unknown."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.manifest import (
    Artifact,
    ArtifactSet,
    Manifest,
    RetiredSet,
    Retry,
    SetReference,
)
from controlplane.api.meta import ObjectMeta, OwnerReference, TypedReference
from controlplane.api.types import (
    ArtifactPhase,
    SandboxSnapshot,
    SandboxSnapshotSpec,
    SnapshotMode,
)
from controlplane.errors import ConflictError, CorruptError, InvariantError
from controlplane.store import codec
from controlplane.store.store import OwnerKey, Stored

KEY = OwnerKey("ns", "s", "u")
GO_TEXT = json.dumps(
    {
        "ownerRef": {"apiVersion": "", "kind": "", "name": "", "uid": ""},
        "artifactSets": {
            "k": {
                "snapshotKey": "k",
                "snapshotHash": "h",
                "artifacts": [
                    {
                        "providerName": "p",
                        "nodeName": "n",
                        "phase": "Creating",
                        "snapshotKey": "k",
                        "snapshotHash": "h",
                        "createdAt": None,
                        "retry": {"failureCount": 0, "lastFailedAt": None},
                        "message": "",
                    }
                ],
                "reason": "",
            },
        },
        "activeSetRef": {"snapshotKey": ""},
        "pendingSetRef": {"snapshotKey": "k"},
        "rebuildSeq": None,
        "retiredSets": None,
    }
)
TIMES = st.datetimes(
    min_value=datetime(1, 1, 2),
    timezones=st.just(UTC),
)
MARKS = st.dictionaries(
    st.sampled_from(["x-a", "x-b"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
        ),
        max_leaves=4,
    ),
    max_size=2,
)


@st.composite
def artifact_sets(draw: st.DrawFn) -> ArtifactSet:
    """A set that is consistent in itself."""
    key, digest = draw(st.sampled_from("abc")), draw(st.text(max_size=3))
    artifacts = [
        Artifact(
            node_name=node,
            snapshot_key=key,
            snapshot_hash=digest,
            phase=draw(st.sampled_from(ArtifactPhase)),
            created_at=draw(st.none() | TIMES),
            retry=draw(st.none() | st.builds(Retry, failure_count=st.integers(0, 5))),
            message=draw(st.text(max_size=5)),
        )
        for node in draw(st.lists(st.sampled_from(["n1", "n2", "n3"]), unique=True))
    ]
    return ArtifactSet(snapshot_key=key, snapshot_hash=digest, artifacts=tuple(artifacts) or None)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """A manifest that is consistent in itself."""
    sets = {one.snapshot_key: one for one in draw(st.lists(artifact_sets(), max_size=3))}
    references = st.none() | st.builds(SetReference, snapshot_key=st.sampled_from("abcd"))
    retired = draw(st.lists(st.sampled_from("xyz"), unique=True))
    return Manifest(
        owner_ref=draw(st.none() | st.builds(OwnerReference, name=st.text(max_size=3))),
        artifact_sets=sets or None,
        active_set_ref=draw(references),
        pending_set_ref=draw(references),
        rebuild_seq=draw(st.integers(0, 9)),
        retired_sets=tuple(RetiredSet(snapshot_key=key) for key in retired) or None,
        deleted_at=draw(st.none() | TIMES),
    )


def _decode(text: str) -> Manifest:
    return codec.decode(KEY, text.encode()).manifest


def _objects(value: Any, path: str = "") -> dict[str, dict[str, Any]]:
    """Every object that a type of ours describes, by where it stands."""
    found = {path: value}
    for name in ("ownerRef", "activeSetRef", "pendingSetRef", "retry"):
        if name in value:
            found[f"{path}/{name}"] = value[name]
    for key, one in value.get("artifactSets", {}).items():
        found |= _objects(one, f"{path}/sets/{key}")
    for one in value.get("artifacts", ()):
        found |= _objects(one, f"{path}/artifacts/{one['nodeName']}")
    for one in value.get("retiredSets", ()):
        found |= _objects(one, f"{path}/retired/{one['snapshotKey']}")
    return found


@given(manifests())
def test_a_manifest_survives_a_round_trip(manifest: Manifest) -> None:
    assert _decode(codec.encode(KEY, manifest, None)) == manifest


@given(manifests(), st.data())
def test_unknown_members_survive_wherever_they_stand(
    manifest: Manifest, data: st.DataObject
) -> None:
    newer = json.loads(codec.encode(KEY, manifest, None))
    for one in _objects(newer).values():
        one |= data.draw(MARKS)
    text = json.dumps(newer, indent=1)
    assert _decode(text) == manifest
    assert json.loads(codec.encode(KEY, manifest, text)) == newer


@given(manifests(), manifests())
def test_a_write_says_what_it_was_given_whatever_was_there(old: Manifest, new: Manifest) -> None:
    assert _decode(codec.encode(KEY, new, codec.encode(KEY, old, None))) == new


def test_text_of_a_go_writer_reads_as_if_empty_members_were_absent() -> None:
    manifest = _decode(GO_TEXT)
    assert manifest.active is None
    assert manifest.pending is not None
    assert manifest.owner_ref in (None, OwnerReference())
    assert manifest.rebuild_seq == 0


@pytest.mark.parametrize("text", ["{}", '{"activeSetRef": {}}', '{"activeSetRef": null}'])
def test_empty_null_and_absent_references_are_alike(text: str) -> None:
    assert _decode(text).active is None


def test_members_that_were_cleared_do_not_come_back() -> None:
    old = Manifest(active_set_ref=SetReference(snapshot_key="k"), rebuild_seq=3)
    written = json.loads(codec.encode(KEY, Manifest(), codec.encode(KEY, old, None)))
    assert written in ({}, {"schemaVersion": 1})


def test_what_is_said_of_a_reference_ends_with_it() -> None:
    text = '{"activeSetRef": {"snapshotKey": "a", "x": 1}}'
    changed = Manifest(active_set_ref=SetReference(snapshot_key="b"))
    assert json.loads(codec.encode(KEY, changed, text)) == {"activeSetRef": {"snapshotKey": "b"}}


def test_artifacts_keep_their_own_unknown_members_when_others_go() -> None:
    def artifact(node: str) -> dict[str, Any]:
        return {"nodeName": node, "snapshotKey": "k", "snapshotHash": "h", "x": node}

    known = {"snapshotKey": "k", "snapshotHash": "h", "artifacts": [artifact(n) for n in "abc"]}
    stored = codec.decode(KEY, json.dumps({"artifactSets": {"k": known}}).encode())
    (one,) = (stored.manifest.artifact_sets or {}).values()
    fewer = ArtifactSet(
        snapshot_key="k", snapshot_hash="h", artifacts=tuple(reversed(one.artifacts or ()))[:2]
    )
    text = codec.encode(KEY, Manifest(artifact_sets={"k": fewer}), stored.version)
    written = json.loads(text)["artifactSets"]["k"]["artifacts"]
    assert [(a["nodeName"], a["x"]) for a in written] == [("c", "c"), ("b", "b")]


@pytest.mark.parametrize(
    "text",
    [
        '{"artifactSets": {"k": {"snapshotKey": "other"}}}',
        '{"artifactSets": {"k": {}}}',
        '{"artifactSets": {"k": {"snapshotKey": "k", "artifacts": [{"snapshotKey": "j"}]}}}',
        '{"artifactSets": {"k": {"snapshotKey": "k", "artifacts": '
        '[{"nodeName": "n", "snapshotKey": "k"}, {"nodeName": "n", "snapshotKey": "k"}]}}}',
        '{"artifactSets": {"k": {"snapshotKey": "k", "artifacts": [{"phase": "Odd"}]}}}',
        '{"schemaVersion": 2}',
        '{"rebuildSeq": 1.5}',
        '{"a": NaN, "rebuildSeq": null}',
        "[" * 100_000,
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
    ids=lambda text: text[:40],
)
def test_a_text_that_contradicts_itself_is_corrupt(text: str) -> None:
    with pytest.raises(CorruptError, match="cannot be used"):
        _decode(text)


def test_a_text_without_end_is_not_read() -> None:
    with pytest.raises(CorruptError, match="bytes"):
        codec.decode(KEY, b" " * (codec.TEXT_MAX_BYTES + 1))


def test_a_manifest_too_large_to_read_is_not_written() -> None:
    large = Manifest(owner_ref=OwnerReference(name="x" * codec.TEXT_MAX_BYTES))
    with pytest.raises(InvariantError, match="too large"):
        codec.encode(KEY, large, None)


@pytest.mark.parametrize(
    ("message", "known"), [("\ud800", "{}"), ("", '{"x": 1e999}')], ids=["surrogate", "infinite"]
)
def test_what_is_no_json_is_not_written(message: str, known: str) -> None:
    retired = (RetiredSet(snapshot_key="k", reason=message),)
    with pytest.raises(InvariantError, match="refusing to store"):
        codec.encode(KEY, Manifest(retired_sets=retired), known)


@pytest.mark.parametrize("version", ["", "{", "nonsense"])
def test_a_version_that_is_no_text_conflicts(version: str) -> None:
    with pytest.raises(ConflictError):
        codec.encode(KEY, Manifest(), version)


@pytest.mark.parametrize(
    ("owner", "is_fine"),
    [
        (None, True),
        (OwnerReference(), True),
        (OwnerReference(kind="SandboxSnapshot", name="s", uid="u"), True),
        (OwnerReference(kind="SandboxSnapshot", name="s", uid="other"), False),
        (OwnerReference(kind="SandboxSnapshot", name="t", uid="u"), False),
        (OwnerReference(kind="SnapStart", name="s", uid="u"), False),
    ],
)
def test_defect_42_owner_is_checked(owner: OwnerReference | None, is_fine: bool) -> None:
    snapshot = SandboxSnapshot(
        metadata=ObjectMeta(namespace="ns", name="s", uid="u"),
        spec=SandboxSnapshotSpec(
            snapshot_mode=SnapshotMode.FORK,
            source_ref=TypedReference(name="t"),
            snapshot_class_name="c",
        ),
    )
    stored = Stored(Manifest(owner_ref=owner), "{}")
    if is_fine:
        codec.check_owner(stored, snapshot)
        return
    with pytest.raises(CorruptError, match="names as its owner"):
        codec.check_owner(stored, snapshot)
