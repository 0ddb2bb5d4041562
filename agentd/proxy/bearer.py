"""Tell whether a caller knows the token."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode

TOKEN: Final = "KUASAR_PROXY_TOKEN"
_SCHEME: Final = "bearer"
# What an HTTP header can carry without doubt.
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]{1,4096}")


class TokenSource:
    """Where the token is: a file, read again each time so that it can be replaced, or the
    environment. Never keeps it, never tells it.
    """

    def __init__(self, environ: Mapping[str, str], file: Path | None) -> None:
        self._environ = environ
        self._file = file

    def read(self) -> bytes:
        """The token, without white space around it; blocks for a small file.

        Raises: ConfigError CONFIG_INVALID: there is none, or it fits into no header.
        """
        where = f"${TOKEN}" if self._file is None else str(self._file)
        token = self._text(where).strip()
        if _VISIBLE.fullmatch(token) is None:
            raise _unusable(where, "it is empty, too long, or no visible ASCII")
        return token

    def _text(self, where: str) -> bytes:
        if self._file is None:
            return self._environ.get(TOKEN, "").encode("utf-8", "surrogateescape")
        try:
            return self._file.read_bytes()
        except OSError as exc:
            raise _unusable(where, f"{exc.strerror}") from exc


def is_allowed(headers: Sequence[str], token: bytes) -> bool:
    """Whether a caller gave the token. Takes the same time wherever a wrong one differs.

    Args: headers: every Authorization header of the request.
    """
    if len(headers) != 1:
        return False
    scheme, _, given = headers[0].partition(" ")
    is_same = hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token)
    return is_same and scheme.lower() == _SCHEME


def _unusable(where: str, why: str) -> ConfigError:
    return ConfigError(
        ErrorCode.CONFIG_INVALID,
        f"reading the admin proxy's token from {where}: {why}",
        hint="without a token it would let anybody in; put a random one there",
    )
