"""Errors of Redis, by whose move they are."""

from __future__ import annotations

import pytest
from redis import exceptions as redis

from controlplane.errors import ConflictError, CorruptError, UnavailableError
from controlplane.store.faults import FOREIGN, translate


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [
        (redis.WatchError("Watched variable changed."), ConflictError, ""),
        (redis.AuthenticationError("invalid"), UnavailableError, "password"),
        (redis.ResponseError("NOAUTH Authentication required."), UnavailableError, "password"),
        (redis.NoPermissionError("no perm"), UnavailableError, "password"),
        (redis.ReadOnlyError("You can't write"), UnavailableError, "replica"),
        (redis.OutOfMemoryError("command not allowed"), UnavailableError, "maxmemory"),
        (redis.BusyLoadingError("loading"), UnavailableError, ""),
        (redis.ResponseError("WRONGTYPE Operation"), CorruptError, "no string"),
        (redis.ResponseError("something new"), UnavailableError, ""),
        (redis.ConnectionError("gone"), UnavailableError, ""),
        (redis.RedisClusterException("no slot"), UnavailableError, ""),
        (ConnectionRefusedError(111, "refused"), UnavailableError, ""),
        (TimeoutError(), UnavailableError, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_defect_53_every_error_is_translated(
    error: Exception, kind: type[Exception], hint: str
) -> None:
    assert isinstance(error, FOREIGN)
    made = translate(error, "reading k in the store at h:1")
    assert type(made) is kind
    assert str(made).startswith("reading k in the store at h:1: ")
    assert hint in str(made)


def test_a_server_that_loads_asks_to_be_left_alone() -> None:
    made = translate(redis.BusyLoadingError("loading"), "reading")
    assert isinstance(made, UnavailableError)
    assert made.delay_s > 0
