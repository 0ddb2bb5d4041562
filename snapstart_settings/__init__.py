"""Settings of a program: typed groups, read from TOML and the environment, with their origins."""

from snapstart_settings.example import example_env, example_toml
from snapstart_settings.group import Group
from snapstart_settings.reading import (
    Finding,
    Origin,
    Problem,
    Reading,
    Source,
    describe,
    read,
    tell,
)
from snapstart_settings.show import show_json, show_toml

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
