"""Write values as TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def as_toml(value: object) -> str:
    """A value of a setting, as it would stand in the file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str | Path):
        # A TOML basic string is a JSON string in which DEL is escaped, too.
        return json.dumps(str(value)).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        inner = ", ".join(f"{as_toml(str(key))} = {as_toml(one)}" for key, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    raise TypeError(f"no setting is {value!r}")
