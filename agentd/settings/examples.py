"""Write the examples that operators begin with."""

from __future__ import annotations

from typing import Final

from agentd.settings.reading import ENV_PREFIX
from agentd.settings.whole import Settings
from agentd.typed_settings import example_env, example_toml

_FILE_HEAD: Final = """\
Settings of agentd, all of them, commented out with their defaults. Made by `agentd config example`.
To be /etc/snapstart/agentd.toml; `agentd config check` tells what is in force and whence.
Remove the # before a setting to change it. Times are in seconds.
"""
_ENV_HEAD: Final = """\
Settings of agentd as variables, which come before those of the file. Made by
`agentd config example --env`. To be /etc/snapstart/agentd.env, which the unit reads.
Tables ([node.images], [node.labels]) stand in the file alone.
"""


def example_file() -> str:
    """deploy/agentd.toml."""
    return example_toml(Settings, _FILE_HEAD)


def example_env_file() -> str:
    """deploy/agentd.env."""
    return example_env(Settings, ENV_PREFIX, _ENV_HEAD)
