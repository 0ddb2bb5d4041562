"""Say what is wrong with a setting, where, what to do."""

from __future__ import annotations

from typing import Final

from agentd.errors import ConfigError, ErrorCode

HINT: Final = "`agentd config check` prints every setting with the value in force"


def invalid(where: str, what: str, hint: str) -> ConfigError:
    message = f"reading settings from {where}: {what}"
    return ConfigError(ErrorCode.CONFIG_INVALID, message, hint=hint)
