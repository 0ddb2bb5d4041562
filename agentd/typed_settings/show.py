"""Show settings with their origins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from agentd.typed_settings.group import Group, values
from agentd.typed_settings.reading import Reading
from agentd.typed_settings.toml_text import as_toml


def show_toml(reading: Reading[Any]) -> str:
    """The settings in force as a TOML file, each with its origin."""
    return "\n".join(_toml_lines(reading)) + "\n"


def _toml_lines(reading: Reading[Any]) -> Iterator[str]:
    last = ""
    settings: Group = reading.settings
    for group, name, value in values(settings):
        if group != last:
            yield f"\n[{group}]" if last else f"[{group}]"
            last = group
        line = f"# {name} is not set" if value is None else f"{name} = {as_toml(value)}"
        origin = reading.origins[f"{group}.{name}"]
        yield f"{line}  # {origin.name or origin.kind}"


def show_json(reading: Reading[Any]) -> str:
    """The same for programs: settings with origins, problems, whether there are none."""
    settings = [
        {
            "key": f"{group}.{name}",
            "value": msgspec.to_builtins(value, enc_hook=str),
            "origin": reading.origins[f"{group}.{name}"].kind,
            "from": reading.origins[f"{group}.{name}"].name,
        }
        for group, name, value in values(reading.settings)
    ]
    answer = {"ok": not reading.problems, "settings": settings, "problems": reading.problems}
    return msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()
