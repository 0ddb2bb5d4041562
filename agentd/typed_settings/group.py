"""Define what settings are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of one subject, and of all of them together: a misspelt key is refused."""


def keys(settings: type[Group]) -> dict[str, dict[str, msgspec.structs.FieldInfo]]:
    """Every setting of a program, by group."""
    return {
        group.name: {field.name: field for field in msgspec.structs.fields(group.type)}
        for group in msgspec.structs.fields(settings)
    }


def values(settings: Group) -> Iterator[tuple[str, str, Any]]:
    """Every setting with what it is: group, field, value."""
    for group in settings.__struct_fields__:
        subject = getattr(settings, group)
        for field in subject.__struct_fields__:
            yield group, field, getattr(subject, field)
