"""Decide which template names are allowed."""

from __future__ import annotations

import re
from typing import Final

from agentd.errors import ErrorCode, UsageError

# A DNS label (RFC 1123, section 2.1) in lower case: one path component that no shell, URL or
# Kubernetes object name has to quote, and never "." or "..".
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SHOWN_CHARACTERS: Final = 80


def validate_name(name: str) -> str:
    """Return the name of a template unchanged, once it is known to be a safe path component.

    Raises: UsageError NAME_INVALID.
    """
    if _NAME.fullmatch(name):
        return name
    raise UsageError(
        ErrorCode.NAME_INVALID,
        f"{name[:_SHOWN_CHARACTERS]!r} is not a template name",
        hint="use 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends",
    )
