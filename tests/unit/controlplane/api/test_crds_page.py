"""docs/crds.md names every field, every condition, and says where their reasons are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.api.crds import KINDS, Kind, generate_crd
from controlplane.api.types import ConditionType
from controlplane.runtimes.condition import Reason

DOCS = Path(__file__).parents[4] / "docs"
PAGE = (DOCS / "crds.md").read_text()
REASONS = (DOCS / "reference" / "events.md").read_text()
# Said once for their parent.
WHOLE = ("status.conditions", "spec.snapshotRef", "spec.targetSandboxRef")


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        if here in WHOLE or "properties" not in inner:
            yield here
        else:
            yield from leaves(inner, here)


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.singular)
def test_the_page_names_every_field_of_a_kind(kind: Kind) -> None:
    schema = generate_crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    paths = {path for path in leaves(schema) if path.startswith(("spec", "status"))}
    text = section(kind.type.__name__)
    assert [path for path in sorted(paths) if f"`{path}`" not in text] == []
    assert f"`{kind.short_name}`" in text


def test_the_page_names_every_condition_and_leads_to_every_reason() -> None:
    assert [one for one in ConditionType if f"| `{one.value}` |" not in PAGE] == []
    assert "(reference/events.md#conditions)" in PAGE
    assert [one for one in Reason if f"`{one.value}`" not in REASONS] == []
