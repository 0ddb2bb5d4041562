"""What a status may say: sums of the whole, nothing of a node."""

from __future__ import annotations

from typing import Any, get_type_hints

from controlplane.api.crds import KINDS, generate_crd
from controlplane.api.manifest import Artifact
from controlplane.api.types import (
    ArtifactPhase,
    SandboxSnapshot,
    SandboxSnapshotStatus,
    SnapshotPhase,
)


def status_schema() -> dict[str, Any]:
    kind = next(one for one in KINDS if one.type is SandboxSnapshot)
    schema = generate_crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    properties: dict[str, Any] = schema["properties"]["status"]["properties"]
    return properties


def test_defect_7_a_snapshots_status_holds_counts_and_nothing_of_a_node() -> None:
    schema = status_schema()
    numbers = {name for name, one in schema.items() if one["type"] == "integer"}
    assert numbers == {
        *("targetNodeCount", "creatingNodeCount", "readyNodeCount"),
        *("failedNodeCount", "unavailableNodeCount"),
    }
    assert [name for name, one in schema.items() if one["type"] == "object"] == []
    assert [name for name, one in schema.items() if one["type"] == "array"] == ["conditions"]


def test_defect_7_phases_of_a_snapshot_and_of_an_artifact_are_two_types() -> None:
    assert get_type_hints(SandboxSnapshotStatus)["phase"] is SnapshotPhase
    assert get_type_hints(Artifact)["phase"] is ArtifactPhase
    assert set(ArtifactPhase) - set(SnapshotPhase) == {"Unavailable"}
    assert set(SnapshotPhase) - set(ArtifactPhase) == {"Pending"}
    assert status_schema()["phase"]["enum"] == list(SnapshotPhase)
