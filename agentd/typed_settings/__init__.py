"""Settings of a program: typed groups, read from TOML and the environment, with their origins."""

from agentd.typed_settings.example import example_env, example_toml
from agentd.typed_settings.group import Group
from agentd.typed_settings.reading import (
    Finding,
    Origin,
    Problem,
    Reading,
    Source,
    describe,
    read,
    tell,
)
from agentd.typed_settings.show import show_json, show_toml

__all__ = [
    "Finding",
    "Group",
    "Origin",
    "Problem",
    "Reading",
    "Source",
    "describe",
    "example_env",
    "example_toml",
    "read",
    "show_json",
    "show_toml",
    "tell",
]
