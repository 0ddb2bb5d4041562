"""Derive structural OpenAPI schemas from msgspec types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import inspect

from controlplane.api.meta import JsonObject, ObjectMeta
from controlplane.errors import InvariantError

# What types cannot say of a field: by its dotted path from the object's root; "[]" is a list's
# item, "{}" a map's value. The member "required" is a boolean and moves to the parent.
Extras = Mapping[str, Mapping[str, Any]]

_SCALARS: dict[type[inspect.Type], dict[str, str]] = {
    inspect.StrType: {"type": "string"},
    inspect.IntType: {"type": "integer", "format": "int64"},
    inspect.BoolType: {"type": "boolean"},
    inspect.DateTimeType: {"type": "string", "format": "date-time"},
}


def derive_schema(kind: type[msgspec.Struct], extras: Extras) -> JsonObject:
    """The schema of a whole object.

    Raises: InvariantError if a type has no form in a schema, or extras name a field that is not.
    """
    unused = set(extras)
    schema = _derive(inspect.type_info(kind), "", extras, unused)
    if unused:
        raise InvariantError(f"{kind.__name__} has no fields {sorted(unused)}")
    head = {name: {"type": "string"} for name in ("apiVersion", "kind")}
    schema["properties"] = {**head, **schema["properties"]}
    return schema


def _derive(info: inspect.Type, path: str, extras: Extras, unused: set[str]) -> JsonObject:
    schema = _derive_plain(_without_none(info), path, extras, unused)
    unused.discard(path)
    extra = {key: value for key, value in extras.get(path, {}).items() if key != "required"}
    description = {"description": extra.pop("description")} if "description" in extra else {}
    return {**description, **schema, **extra}


def _derive_plain(info: inspect.Type, path: str, extras: Extras, unused: set[str]) -> JsonObject:
    if isinstance(info, inspect.StructType):
        if info.cls is ObjectMeta:
            return {"type": "object"}
        return _derive_struct(info, path, extras, unused)
    if isinstance(info, inspect.VarTupleType):
        item = _derive(info.item_type, f"{path}[]", extras, unused)
        return {"type": "array", "items": item}
    if isinstance(info, inspect.DictType):
        value = _derive(info.value_type, f"{path}{{}}", extras, unused)
        return {"type": "object", "additionalProperties": value}
    if isinstance(info, inspect.EnumType):
        return {"type": "string", "enum": [member.value for member in info.cls]}
    if type(info) in _SCALARS:
        return dict(_SCALARS[type(info)])
    raise InvariantError(f"{path} is a {type(info).__name__}, which no schema can express")


def _derive_struct(
    info: inspect.StructType, path: str, extras: Extras, unused: set[str]
) -> JsonObject:
    properties: JsonObject = {}
    required = []
    for field in info.fields:
        inner = f"{path}.{field.encode_name}" if path else field.encode_name
        properties[field.encode_name] = _derive(field.type, inner, extras, unused)
        if extras.get(inner, {}).get("required", field.required and inner != "metadata"):
            required.append(field.encode_name)
    schema: JsonObject = {"type": "object", "properties": properties}
    return {**schema, "required": required} if required else schema


def _without_none(info: inspect.Type) -> inspect.Type:
    if not isinstance(info, inspect.UnionType):
        return info
    types = [one for one in info.types if not isinstance(one, inspect.NoneType)]
    if len(types) != 1:
        raise InvariantError(f"a union of {len(types)} types has no structural schema")
    return types[0]
