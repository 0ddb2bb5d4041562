"""Redis and Valkey as they fail: killed, slow, full, a replica, without leave."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import redis

from controlplane.errors import ConflictError, CorruptError, UnavailableError
from controlplane.store.clients import RedisLimits
from controlplane.store.endpoint import Credentials, parse_endpoint
from controlplane.store.redis import RedisStore
from tests.adapters.controlplane.store.samples import KEY, manifest
from tests.kube.redisd import RedisServer

LIMITS = RedisLimits(connect_s=20.0, call_s=10.0, connections=4)
HASTY = RedisLimits(connect_s=0.2, call_s=0.2, connections=4)


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    """A connection of our own to the emptied server."""
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        client.flushall()
        yield client


@asynccontextmanager
async def opened(
    address: str, who: Credentials | None = None, limits: RedisLimits = LIMITS
) -> AsyncIterator[RedisStore]:
    """A store, closed at the end."""
    store = RedisStore(parse_endpoint(address, who or Credentials()), limits)
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.restarts
async def test_a_killed_server_is_unavailable_then_back(server: RedisServer) -> None:
    async with opened(server.url) as store:
        await store.delete(KEY)
        version = await store.put(KEY, manifest(), None)
        server.kill()
        for _ in range(3):
            with pytest.raises(UnavailableError, match="reading"):
                await store.get(KEY)
        with pytest.raises(UnavailableError, match="writing"):
            await store.put(KEY, manifest(2), version)
        with pytest.raises(UnavailableError, match="listing"):
            await anext(store.list())
        server.restart()
        stored = await store.get(KEY)
        assert stored is not None
        assert stored.version == version
        # Its scripts went with it.
        await store.put(KEY, manifest(2), version)


@pytest.mark.restarts
async def test_a_server_killed_amid_calls_breaks_no_promise(server: RedisServer) -> None:
    async with opened(server.url) as store:
        await store.delete(KEY)
        version = await store.put(KEY, manifest(1), None)
        killer = asyncio.get_running_loop().call_later(0.05, server.kill)
        last = await _count_writes(store, version)
        killer.cancel()
        server.restart()
        stored = await store.get(KEY)
        assert stored is not None
        # The write without an answer happened or it did not; those with one did.
        assert stored.manifest.rebuild_seq in (last, last + 1)


async def test_a_server_that_does_not_answer_costs_the_time_of_a_call(
    server: RedisServer,
) -> None:
    pid = server.pid
    assert pid is not None
    async with opened(server.url, limits=HASTY) as store:
        os.kill(pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(UnavailableError):
                await store.get(KEY)
            assert time.monotonic() - begun >= HASTY.connect_s / 2
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_more_calls_than_connections_wait_for_their_turn(
    server: RedisServer, admin: redis.Redis
) -> None:
    async with opened(server.url) as store:
        await store.put(KEY, manifest(), None)
        found = await asyncio.gather(*(store.get(KEY) for _ in range(100)))
        assert all(found)
        assert _others(admin) <= LIMITS.connections


async def test_defect_9_closing_leaves_no_connection(
    server: RedisServer, admin: redis.Redis
) -> None:
    async with opened(server.url) as store:
        await asyncio.gather(*(store.get(KEY) for _ in range(20)))
        assert _others(admin) > 0
    await _until_alone(admin)


async def test_defect_9_closing_ends_calls_under_way(
    server: RedisServer, admin: redis.Redis
) -> None:
    async with opened(server.url) as store:
        await store.get(KEY)
        _ask(admin, "CLIENT", "PAUSE", "3000")
        call = asyncio.ensure_future(store.get(KEY))
        await asyncio.sleep(0.05)
        await store.close()
        with pytest.raises(UnavailableError):
            await call
    _ask(admin, "CLIENT", "UNPAUSE")
    await _until_alone(admin)


async def test_a_forgotten_script_is_sent_again(server: RedisServer, admin: redis.Redis) -> None:
    async with opened(server.url) as store:
        version = await store.put(KEY, manifest(), None)
        admin.script_flush()
        version = await store.put(KEY, manifest(2), version)
        admin.script_flush()
        await store.delete(KEY, version)


async def test_a_write_takes_one_round_trip(server: RedisServer, admin: redis.Redis) -> None:
    async with opened(server.url) as store:
        version = await store.put(KEY, manifest(), None)
        admin.config_resetstat()
        await store.put(KEY, manifest(2), version)
    calls = {name: s["calls"] for name, s in admin.info("commandstats").items()}
    assert calls.get("cmdstat_evalsha") == 1
    assert "cmdstat_eval" not in calls


async def test_no_text_ever_expires(server: RedisServer, admin: redis.Redis) -> None:
    async with opened(server.url) as store:
        version = await store.put(KEY, manifest(), None)
        admin.expire(str(KEY), 1000)
        await store.put(KEY, manifest(2), version)
    assert admin.ttl(str(KEY)) == -1


async def test_a_replica_refuses_writes_with_advice(
    server: RedisServer, admin: redis.Redis
) -> None:
    async with opened(server.url) as store:
        version = await store.put(KEY, manifest(), None)
        admin.replicaof("127.0.0.1", 1)
        try:
            with pytest.raises(UnavailableError, match="replica"):
                await store.put(KEY, manifest(2), version)
        finally:
            admin.replicaof("NO", "ONE")
        await store.put(KEY, manifest(2), version)


async def test_a_full_server_is_unavailable_not_a_conflict(
    server: RedisServer, admin: redis.Redis
) -> None:
    async with opened(server.url) as store:
        admin.config_set("maxmemory", "1")
        try:
            with pytest.raises(UnavailableError, match="memory"):
                await store.put(KEY, manifest(), None)
        finally:
            admin.config_set("maxmemory", "0")
        await store.put(KEY, manifest(), None)


async def test_a_key_of_another_type_is_corrupt(server: RedisServer, admin: redis.Redis) -> None:
    admin.rpush(str(KEY), "x")
    async with opened(server.url) as store:
        with pytest.raises(CorruptError, match="no string"):
            await store.get(KEY)
        with pytest.raises(CorruptError):
            await store.put(KEY, manifest(), None)
    assert admin.type(str(KEY)) == b"list"


async def test_an_acl_user_with_the_documented_commands_can_do_all(
    server: RedisServer, admin: redis.Redis
) -> None:
    _ask(
        admin,
        *("ACL", "SETUSER", "snapstart", "on", ">s3cr/et", "~snapshot:SandboxSnapshot:*"),
        *("-@all", "+get", "+set", "+del", "+scan", "+eval", "+evalsha"),
    )
    try:
        async with opened(server.url, Credentials("snapstart", "s3cr/et")) as store:
            version = await store.put(KEY, manifest(), None)
            assert await store.get(KEY) is not None
            assert [key async for key in store.list()] == [KEY]
            with pytest.raises(ConflictError):
                await store.put(KEY, manifest(), None)
            await store.delete(KEY, version)
    finally:
        _ask(admin, "ACL", "DELUSER", "snapstart")


@pytest.mark.parametrize(
    "who", [Credentials("", "wrong"), Credentials("nobody", "secret"), Credentials()]
)
async def test_wrong_credentials_are_named_but_not_shown(
    server: RedisServer, admin: redis.Redis, who: Credentials
) -> None:
    admin.config_set("requirepass", "secret")
    try:
        async with opened(server.url, who) as store:
            with pytest.raises(UnavailableError, match="check the store's user") as caught:
                await store.get(KEY)
        assert "wrong" not in str(caught.value).replace("WRONGPASS", "")
        async with opened(server.url, Credentials("", "secret")) as store:
            assert await store.get(KEY) is None
    finally:
        _ask(admin, "AUTH", "secret")
        admin.config_set("requirepass", "")


async def test_a_database_in_the_address_is_used(server: RedisServer, admin: redis.Redis) -> None:
    async with opened(f"unix://{server.socket}?db=3") as store:
        await store.put(KEY, manifest(), None)
    assert admin.get(str(KEY)) is None


async def _count_writes(store: RedisStore, version: str) -> int:
    """Write after the first until that fails; how many writes were acknowledged."""
    for seq in itertools.count(2):
        try:
            version = await store.put(KEY, manifest(seq), version)
        except UnavailableError:
            return seq - 1
    raise AssertionError


def _others(admin: redis.Redis) -> int:
    return len(admin.client_list()) - 1


def _ask(admin: redis.Redis, *command: str) -> None:
    admin.execute_command(*command)  # type: ignore[no-untyped-call]


async def _until_alone(admin: redis.Redis) -> None:
    """The server sees a closed connection when it gets round to it."""
    while _others(admin) > 0:  # noqa: ASYNC110 - the other side is a process
        await asyncio.sleep(0.01)
