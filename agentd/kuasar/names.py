"""Refuse what a sandboxer would refuse, or take for a path, before it is sent."""

from __future__ import annotations

import os
import re
from pathlib import Path

from agentd.errors import ConfigError, ErrorCode, UsageError

# The stricter rule of the two forms; it leaves no room for "/", "." or "..", which the other takes.
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")
_ID = re.compile(r"[A-Za-z0-9_-]{12,64}")
_SHOWN = 80
_PATH_MAX_BYTES = 107  # unix(7): sun_path has 108 with the NUL


def require_key(key: str) -> str:
    """A key as it was given. Raises: UsageError NAME_INVALID."""
    if _KEY.fullmatch(key) is None:
        raise _invalid("key", key, "1 to 253 of A-Z a-z 0-9 _ . -, no sign at an end")
    return key


def require_id(kind: str, text: str) -> str:
    """The id of a template or sandbox as it was given. Raises: UsageError NAME_INVALID."""
    if _ID.fullmatch(text) is None:
        raise _invalid(kind, text, "12 to 64 of A-Z a-z 0-9 _ -")
    return text


def require_socket_path(what: str, path: Path) -> Path:
    """A socket's path as it was given: uvloop would cut a longer one and reach another socket.

    Raises: ConfigError CONFIG_INVALID.
    """
    if len(os.fsencode(path)) > _PATH_MAX_BYTES:
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"{what}: the socket's path {str(path)!r} has {len(os.fsencode(path))} bytes",
            hint=f"give one of at most {_PATH_MAX_BYTES} bytes",
        )
    return path


def _invalid(kind: str, text: str, rule: str) -> UsageError:
    return UsageError(
        ErrorCode.NAME_INVALID,
        f"asking the Kuasar sandboxer about {kind} {text[:_SHOWN]!r}: it takes {rule}",
    )
