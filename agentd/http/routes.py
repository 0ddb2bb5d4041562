"""List every path of the local API once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """One method on one path.

    path: as aiohttp's router takes it. takes, gives: message types; None is no body, bytes are raw
    ones. status: on success.
    """

    method: str
    path: str
    summary: str
    handle: Handle
    takes: type[msgspec.Struct] | type[bytes] | None = None
    gives: type[msgspec.Struct] | type[bytes] | None = None
    status: int = 200
