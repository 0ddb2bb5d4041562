"""Translate what goes wrong with Redis or Valkey."""

from __future__ import annotations

import asyncio
from typing import Final

from redis import exceptions as redis

from controlplane.errors import ConflictError, ControlPlaneError, CorruptError, UnavailableError

# What a redis.asyncio client raises; cancellation is not among it.
FOREIGN: Final = (redis.RedisError, redis.RedisClusterException, OSError, asyncio.TimeoutError)

_REFUSED: Final = (
    redis.AuthenticationError,
    redis.AuthorizationError,
    redis.AuthenticationWrongNumberOfArgsError,
    redis.NoPermissionError,
)
_REFUSED_CODES: Final = ("NOAUTH", "WRONGPASS", "NOPERM")
_RETRY_S: Final = 1.0


def translate(error: BaseException, what: str) -> ControlPlaneError:
    """One of FOREIGN, by whose move it is. what: what was attempted, on which server.

    Anything unknown counts as unavailable: never as an empty answer.
    """
    came_back = f"{what}: {type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, redis.WatchError):
        return ConflictError(f"{what}: another wrote in between")
    if isinstance(error, _REFUSED) or str(error).startswith(_REFUSED_CODES):
        return UnavailableError(came_back, hint="check the store's user, password and permissions")
    if isinstance(error, redis.ReadOnlyError):
        return UnavailableError(
            came_back, hint="this is a replica: address the primary, or use sentinels"
        )
    if isinstance(error, redis.OutOfMemoryError):
        return UnavailableError(came_back, hint="the store is full: raise its maxmemory")
    if isinstance(error, redis.BusyLoadingError):
        return UnavailableError(came_back, delay_s=_RETRY_S)
    if isinstance(error, redis.ResponseError) and str(error).startswith("WRONGTYPE"):
        return CorruptError(came_back, hint="the key holds no string; find out who wrote it")
    return UnavailableError(came_back)
