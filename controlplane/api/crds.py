"""Generate the CustomResourceDefinitions from the API's types.

`python -m controlplane.api.crds` writes them to `deploy/crds`, or to the directory it is given.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from controlplane.api import crd_fields, names
from controlplane.api.meta import JsonObject
from controlplane.api.schema import derive_schema
from controlplane.api.types import SandboxSnapshot, SandboxSnapshotTask, SnapshotClass

DIRECTORY: Final = Path(__file__).parents[2] / "deploy" / "crds"
_HEADER = "# Made by `python -m controlplane.api.crds`; change controlplane/api/ instead.\n"


@dataclass(frozen=True)
class Column:
    """What kubectl prints. priority: above 0 it is shown by `-o wide` alone."""

    name: str
    type: str
    path: str
    priority: int = 0

    def to_json(self) -> JsonObject:
        """As it stands in a CRD."""
        wide = {"priority": self.priority} if self.priority else {}
        return {"name": self.name, "type": self.type, "jsonPath": self.path, **wide}


_AGE = Column("Age", "date", ".metadata.creationTimestamp")


@dataclass(frozen=True)
class Kind:
    """One kind of the API, and how users meet it."""

    type: type[msgspec.Struct]
    short_name: str
    fields: crd_fields.Fields
    columns: tuple[Column, ...]
    is_namespaced: bool = True
    has_status: bool = True
    selectable: tuple[str, ...] = ()

    @property
    def singular(self) -> str:
        """Its lower-case name."""
        return self.type.__name__.lower()

    @property
    def plural(self) -> str:
        """As it stands in a URL."""
        ending = "es" if self.singular.endswith("s") else "s"
        return self.singular + ending

    @property
    def crd_name(self) -> str:
        """The name of its CustomResourceDefinition."""
        return f"{self.plural}.{names.GROUP}"


KINDS: Final = (
    Kind(
        SnapshotClass,
        "snapclass",
        crd_fields.SNAPSHOT_CLASS,
        (
            Column("Provider", "string", ".spec.providerName"),
            Column("Modes", "string", ".spec.supportedSnapshotModes"),
            _AGE,
        ),
        is_namespaced=False,
        has_status=False,
    ),
    Kind(
        SandboxSnapshot,
        "sbsnap",
        crd_fields.SNAPSHOT,
        (
            Column("Mode", "string", ".spec.snapshotMode"),
            Column("Phase", "string", ".status.phase"),
            Column("Ready", "integer", ".status.readyNodeCount"),
            _AGE,
            Column("Target", "integer", ".status.targetNodeCount", 1),
            Column("Source", "string", ".spec.sourceRef.name", 1),
            Column("Class", "string", ".spec.snapshotClassName", 1),
            Column("Message", "string", ".status.message", 1),
        ),
    ),
    Kind(
        SandboxSnapshotTask,
        "sbtask",
        crd_fields.TASK,
        (
            Column("Node", "string", ".spec.targetNodeName"),
            Column("Phase", "string", ".status.phase"),
            _AGE,
            Column("Operation", "string", ".spec.operation", 1),
            Column("Key", "string", ".spec.snapshotKey", 1),
            Column("Message", "string", ".status.message", 1),
        ),
        selectable=(".spec.targetNodeName",),
    ),
)


def generate_crd(kind: Kind) -> JsonObject:
    """The CustomResourceDefinition of a kind."""
    spec = {
        "group": names.GROUP,
        "scope": "Namespaced" if kind.is_namespaced else "Cluster",
        "names": {
            "kind": kind.type.__name__,
            "listKind": f"{kind.type.__name__}List",
            "plural": kind.plural,
            "singular": kind.singular,
            "shortNames": [kind.short_name],
            "categories": ["agentcube"],
        },
        "versions": [_version(kind)],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name},
        "spec": spec,
    }


def _version(kind: Kind) -> JsonObject:
    version: JsonObject = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": derive_schema(kind.type, kind.fields)},
        "additionalPrinterColumns": [column.to_json() for column in kind.columns],
    }
    if kind.has_status:
        version["subresources"] = {"status": {}}
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    return version


def render_crds() -> dict[str, str]:
    """File name to YAML text, of every kind."""
    return {
        f"{names.GROUP}_{kind.plural}.yaml": _HEADER
        + msgspec.yaml.encode(generate_crd(kind)).decode()
        for kind in KINDS
    }


def main(arguments: Sequence[str]) -> None:
    """Write the files. Raises: OSError."""
    directory = Path(arguments[0]) if arguments else DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in render_crds().items():
        (directory / name).write_text(text)
        print(directory / name)


if __name__ == "__main__":
    main(sys.argv[1:])
