"""The CRDs in the tree are those that the types make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.api import names
from controlplane.api.crds import DIRECTORY, KINDS, generate_crd, main, render_crds
from controlplane.api.types import ArtifactPhase, SnapshotMode, SnapshotPhase, TaskOperation
from controlplane.kube import resource

CRDS = {kind.type.__name__: generate_crd(kind) for kind in KINDS}


def schema_of(kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = CRDS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def field(kind: str, path: str) -> dict[str, Any]:
    """The schema of one field."""
    schema = schema_of(kind)
    for part in path.split("."):
        schema = schema["properties"][part]
    return schema


def walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")


def test_the_files_are_what_the_types_make() -> None:
    found = {path.name: path.read_text() for path in DIRECTORY.glob("*.yaml")}
    assert found == render_crds(), "run python -m controlplane.api.crds"


def test_the_program_writes_every_file(tmp_path: Path) -> None:
    main([str(tmp_path / "new")])
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(render_crds())


def test_the_text_reads_back_as_the_object() -> None:
    decoded = [msgspec.yaml.decode(text) for text in render_crds().values()]
    assert decoded == list(CRDS.values())


@pytest.mark.parametrize(
    ("kind", "path", "enum"),
    [
        ("SandboxSnapshot", "spec.snapshotMode", SnapshotMode),
        ("SandboxSnapshot", "status.phase", SnapshotPhase),
        ("SandboxSnapshotTask", "status.phase", ArtifactPhase),
        ("SandboxSnapshotTask", "spec.operation", TaskOperation),
    ],
    ids=str,
)
def test_enums_are_those_of_the_code(kind: str, path: str, enum: Any) -> None:
    assert field(kind, path)["enum"] == [member.value for member in enum]


@pytest.mark.parametrize("kind", CRDS)
def test_every_field_says_what_it_means(kind: str) -> None:
    bare = [
        path
        for path, schema in walk(schema_of(kind))
        if "description" not in schema and path not in (".apiVersion", ".kind", ".metadata")
    ]
    assert bare == []


@pytest.mark.parametrize("kind", CRDS)
def test_every_text_is_bounded_so_that_rules_stay_cheap(kind: str) -> None:
    unbounded = [
        path
        for path, schema in walk(schema_of(kind)["properties"]["spec"])
        if schema["type"] == "string" and "enum" not in schema and "maxLength" not in schema
    ]
    assert unbounded == []


def test_names_agree_with_the_resources_of_the_client() -> None:
    known = {r.kind: r for r in (resource.SNAPSHOT_CLASSES, resource.SNAPSHOTS, resource.TASKS)}
    for kind, crd in CRDS.items():
        spec = crd["spec"]
        assert crd["metadata"]["name"] == f"{known[kind].plural}.{names.GROUP}"
        assert spec["names"]["plural"] == known[kind].plural
        assert (spec["scope"] == "Namespaced") == known[kind].is_namespaced


def test_short_names_columns_and_subresources_are_the_contract() -> None:
    short = {kind: crd["spec"]["names"]["shortNames"] for kind, crd in CRDS.items()}
    assert short == {
        "SnapshotClass": ["snapclass"],
        "SandboxSnapshot": ["sbsnap"],
        "SandboxSnapshotTask": ["sbtask"],
    }
    versions = {kind: crd["spec"]["versions"][0] for kind, crd in CRDS.items()}
    columns = {
        kind: [c["name"] for c in version["additionalPrinterColumns"] if not c.get("priority")]
        for kind, version in versions.items()
    }
    assert columns == {
        "SnapshotClass": ["Provider", "Modes", "Age"],
        "SandboxSnapshot": ["Mode", "Phase", "Ready", "Age"],
        "SandboxSnapshotTask": ["Node", "Phase", "Age"],
    }
    assert "subresources" not in versions["SnapshotClass"]
    assert versions["SandboxSnapshot"]["subresources"] == {"status": {}}
    selectable = versions["SandboxSnapshotTask"]["selectableFields"]
    assert selectable == [{"jsonPath": ".spec.targetNodeName"}]


def test_conditions_are_a_map_by_type() -> None:
    conditions = field("SandboxSnapshot", "status.conditions")
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_a_rebuild_on_source_change_is_the_default() -> None:
    assert field("SandboxSnapshot", "spec.forkPolicy.rebuildOnSourceChange")["default"] is True
