"""Schemas derived from types."""

from __future__ import annotations

import msgspec
import pytest

from controlplane.api.meta import Camel
from controlplane.api.schema import derive_schema
from controlplane.errors import InvariantError


class Inner(Camel, frozen=True):
    a_name: str
    count: int | None = None


class Outer(Camel, frozen=True):
    spec: Inner
    words: tuple[str, ...] = ()
    pairs: dict[str, bool] | None = None


class Odd(Camel, frozen=True):
    either: int | str


def test_names_types_and_what_is_required_come_from_the_types() -> None:
    schema = derive_schema(Outer, {})
    assert schema["required"] == ["spec"]
    assert schema["properties"]["spec"]["required"] == ["aName"]
    assert schema["properties"]["spec"]["properties"]["count"]["type"] == "integer"
    assert schema["properties"]["words"]["items"] == {"type": "string"}
    assert schema["properties"]["pairs"]["additionalProperties"] == {"type": "boolean"}


def test_extras_reach_items_values_and_required() -> None:
    extras = {
        "words[]": {"maxLength": 3},
        "pairs{}": {"description": "d"},
        "spec.count": {"required": True, "format": "int32"},
    }
    schema = derive_schema(Outer, extras)
    assert schema["properties"]["words"]["items"] == {"type": "string", "maxLength": 3}
    assert schema["properties"]["pairs"]["additionalProperties"]["description"] == "d"
    assert schema["properties"]["spec"]["required"] == ["aName", "count"]
    assert schema["properties"]["spec"]["properties"]["count"]["format"] == "int32"


def test_extras_of_a_field_that_is_not_there_are_a_defect() -> None:
    with pytest.raises(InvariantError, match=r"no fields \['spec.typo'\]"):
        derive_schema(Outer, {"spec.typo": {}})


def test_a_type_without_a_schema_is_a_defect() -> None:
    with pytest.raises(InvariantError, match="union of 2"):
        derive_schema(Odd, {})
    with pytest.raises(InvariantError, match="x is a FloatType"):
        derive_schema(msgspec.defstruct("F", [("x", float)]), {})
