"""Write an example of a program's settings out of its source: every key, its default, what it is.

The comment above a field is what an operator reads about it, so it is written for operators.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from agentd.typed_settings.group import Group
from agentd.typed_settings.toml_text import as_toml

_UNSET: Final = '"PATH"'


def example_toml(settings: type[Group], head: str) -> str:
    """A file in which every setting stands, commented out, with its default."""
    return "\n".join(_toml_lines(settings, head)) + "\n"


def _toml_lines(settings: type[Group], head: str) -> Iterator[str]:
    yield from (f"# {line}".rstrip() for line in head.splitlines())
    for group in msgspec.structs.fields(settings):
        yield ""
        yield f"# {summary(group.type)}"
        yield f"[{group.name}]"
        for field, default in _defaults(group.type):
            yield from (f"# {line}" for line in comments(group.type)[field])
            shown = f"{_UNSET}  # not set" if default is None else as_toml(default)
            yield f"#{field} = {shown}"


def example_env(settings: type[Group], prefix: str, head: str) -> str:
    """A file of the same settings for systemd's EnvironmentFile; tables have no variable."""
    return "\n".join(_env_lines(settings, prefix, head)) + "\n"


def _env_lines(settings: type[Group], prefix: str, head: str) -> Iterator[str]:
    yield from (f"# {line}".rstrip() for line in head.splitlines())
    for group in msgspec.structs.fields(settings):
        yield ""
        yield f"# {summary(group.type)}"
        for field, default in _defaults(group.type):
            if not isinstance(default, dict):
                yield f"#{prefix}{group.name}__{field}".upper() + f"={_plain(default)}"


def _plain(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None else str(default)


def _defaults(group: type[Group]) -> Iterator[tuple[str, Any]]:
    whole = group()
    for field in group.__struct_fields__:
        yield field, getattr(whole, field)


def summary(group: type[Group]) -> str:
    """What a group is about, in one line."""
    return (group.__doc__ or "").strip().splitlines()[0]


def comments(group: type[Group]) -> dict[str, list[str]]:
    """The comment lines above each field, by its name, as its source has them."""
    found: dict[str, list[str]] = {}
    above: list[str] = []
    for line in map(str.strip, inspect.getsource(group).splitlines()):
        name = line.partition(":")[0]
        if line.startswith("#"):
            above.append(line.removeprefix("#").strip())
        elif name in group.__struct_fields__ and name not in found:
            found[name] = above
            above = []
        else:
            above = []
    return found
