"""Find every message between programs that may be of different versions; make samples of them."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

from .table import FIXTURES

KEPT: Final = FIXTURES / "wire.json"
MODULES: Final = (
    "agentd.wire.api",
    "agentd.wire.guest",
    "agentd.wire.pager",
    "controlplane.api.core",
    "controlplane.api.manifest",
    "controlplane.api.meta",
    "controlplane.api.types",
)


def structs() -> dict[str, type[msgspec.Struct]]:
    """By module and name; those without members are bases."""
    found = {}
    for name in MODULES:
        for kind in vars(importlib.import_module(name)).values():
            is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
            if is_struct and kind.__module__ == name and kind.__struct_fields__:
                found[f"{name}.{kind.__name__}"] = kind
    return found


def required(kind: type[msgspec.Struct]) -> set[str]:
    """Members without which it is not read, as they are spelt."""
    return {one.encode_name for one in msgspec.structs.fields(kind) if one.required}


def members(kind: type[msgspec.Struct]) -> set[str]:
    """All of them."""
    return {one.encode_name for one in msgspec.structs.fields(kind)}


def values(kind: type[msgspec.Struct]) -> dict[str, list[Any]]:
    """What members may say that take one of several words."""
    fields = msgspec.structs.fields(kind)
    found = {one.encode_name: _words(inspect.type_info(one.type)) for one in fields}
    return {name: words for name, words in found.items() if words}


def _words(found: inspect.Type) -> list[Any]:
    match found:
        case inspect.EnumType():
            return sorted(one.value for one in found.cls)
        case inspect.LiteralType():
            return sorted(found.values)
        case inspect.UnionType():
            return [word for one in found.types for word in _words(one)]
        case inspect.VarTupleType() | inspect.ListType():
            return _words(found.item_type)
        case inspect.Metadata():
            return _words(found.type)
    return []


def sample(kind: Any) -> Any:
    """A value that is read as this type, with its required members alone."""
    return _sample(inspect.type_info(kind))


def _sample(found: inspect.Type) -> Any:
    match found:
        case inspect.StructType():
            tag = {} if found.tag_field is None else {found.tag_field: found.tag}
            mine = {f.encode_name: _sample(f.type) for f in found.fields if f.required}
            return {**tag, **mine}
        case inspect.UnionType():
            return _sample(found.types[0])
        case inspect.EnumType():
            return next(iter(found.cls)).value
        case inspect.LiteralType():
            return found.values[0]
        case inspect.Metadata():
            return _sample(found.type)
    simple: dict[type, Any] = {
        inspect.IntType: 1, inspect.FloatType: 1.0, inspect.StrType: "x", inspect.BoolType: True,
        inspect.BytesType: "eA==", inspect.NoneType: None, inspect.AnyType: {},
        inspect.DictType: {}, inspect.ListType: [], inspect.VarTupleType: [],
        inspect.DateTimeType: "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return simple[type(found)]


def main() -> None:
    """Keep members and their words of now: `python -m tests.formats.wire`, once a release."""
    now = {
        name: {
            "required": sorted(required(kind)),
            "members": sorted(members(kind)),
            **({"values": words} if (words := values(kind)) else {}),
        }
        for name, kind in sorted(structs().items())
    }
    Path(KEPT).write_text(json.dumps(now, indent=1) + "\n")


if __name__ == "__main__":
    main()
