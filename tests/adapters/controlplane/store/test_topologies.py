"""Real TLS, sentinels, a real cluster."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from controlplane.errors import UnavailableError
from controlplane.store.clients import RedisLimits
from controlplane.store.endpoint import Credentials, parse_endpoint
from controlplane.store.redis import RedisStore
from controlplane.store.store import OwnerKey
from tests.adapters.controlplane.store.conftest import find_program
from tests.adapters.controlplane.store.samples import KEY, manifest
from tests.kube import ports
from tests.kube.pki import Authority
from tests.kube.process import Server, Spawner
from tests.kube.redisd import RedisServer, named

LIMITS = RedisLimits(connect_s=20.0, call_s=10.0, connections=4)
PASSWORD = "secret"
KEYS = [OwnerKey("team", f"s{number}", "u") for number in range(50)]


@pytest.fixture
def start(short_directory: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers with options; stops them at the end."""
    with ExitStack() as running:

        def one(name: str, *options: str, is_clustered: bool = False) -> RedisServer:
            directory = short_directory / name
            directory.mkdir()
            running.callback(shutil.rmtree, directory)
            program = find_program("redis")
            server = RedisServer(directory, program, options=options, is_clustered=is_clustered)
            return running.enter_context(server)

        yield one


def _ask(server: RedisServer, *command: str) -> object:
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        return client.execute_command(*command)


async def _until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - the other side is a process
        await asyncio.sleep(0.05)


async def _use(store: RedisStore) -> None:
    version = await store.put(KEY, manifest(), None)
    stored = await store.get(KEY)
    assert stored is not None
    assert stored.version == version
    await store.delete(KEY, version)


async def test_tls_proves_the_server_by_the_given_authority(
    start: Callable[..., RedisServer], tmp_path: Path
) -> None:
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    pair = ours.serving("redis", hosts=["127.0.0.1"])
    port = ports.choose(1)[0]
    start(
        "tls",
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key)),
        *("--tls-ca-cert-file", str(ours.certificate)),
    )

    async def attempt(address: str, authority: Path | None) -> None:
        ca_file = str(authority or "")
        store = RedisStore(parse_endpoint(address, Credentials(), ca_file=ca_file), LIMITS)
        try:
            await _use(store)
        finally:
            await store.close()

    await attempt(f"rediss://127.0.0.1:{port}", ours.certificate)
    refused = [
        (f"rediss://127.0.0.1:{port}", other.certificate),
        (f"rediss://127.0.0.1:{port}", None),
        (f"rediss://localhost:{port}", ours.certificate),
        (f"redis://127.0.0.1:{port}", None),
    ]
    for address, authority in refused:
        with pytest.raises(UnavailableError):
            await attempt(address, authority)


async def test_a_cluster_is_one_store(start: Callable[..., RedisServer]) -> None:
    first, second = (start(name, is_clustered=True) for name in ("c1", "c2"))
    _ask(first, "CLUSTER", "ADDSLOTSRANGE", "0", "8191")
    _ask(second, "CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
    _ask(second, "CLUSTER", "MEET", "127.0.0.1", str(first.port), str(first.bus))
    for server in (first, second):
        await _until(lambda one=server: b"cluster_state:ok" in _cluster_info(one))  # type: ignore[misc]
    address = f"redis+cluster://127.0.0.1:{first.port},127.0.0.1:{second.port}"
    store = RedisStore(parse_endpoint(address, Credentials()), LIMITS)
    try:
        for key in KEYS:
            await store.put(key, manifest(), None)
        await _use(store)
        assert sorted([key async for key in store.list()]) == sorted(KEYS)
        assert 0 < int(str(_ask(first, "DBSIZE"))) < len(KEYS)
    finally:
        await store.close()
    for server in (first, second):
        await _until(lambda one=server: _strangers(one) == 0)  # type: ignore[misc]


@pytest.mark.timeout(240)  # After a stall of two seconds a sentinel does nothing for thirty.
async def test_sentinels_lead_to_the_primary_also_after_it_died(
    start: Callable[..., RedisServer], short_directory: Path
) -> None:
    auth = ("--requirepass", PASSWORD, "--masterauth", PASSWORD)
    primary = start("s1", *auth)
    replica = start("s2", *auth, "--replicaof", "127.0.0.1", str(primary.port))
    with Sentinel(short_directory, primary.port) as port:
        address = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/main"
        store = RedisStore(parse_endpoint(address, Credentials("", PASSWORD)), LIMITS)
        try:
            await _use(store)
            version = await store.put(KEY, manifest(), None)
            await _until(lambda: _holds(replica, version))
            await _until(lambda: _knows_replica(port))
            with redis.Redis(port=port) as sentinel:
                sentinel.sentinel_set("main", "down-after-milliseconds", 500)
            primary.kill()
            while True:
                try:
                    await store.put(KEY, manifest(2), version)
                    break
                except UnavailableError:
                    await asyncio.sleep(0.1)
            stored = await store.get(KEY)
            assert stored is not None
            assert stored.manifest.rebuild_seq == 2
        finally:
            await store.close()


class Sentinel:
    """One sentinel of a service called main, alone its quorum; gives its port."""

    def __init__(self, directory: Path, primary: int) -> None:
        self._port = ports.choose(1)[0]
        self._spawner = Spawner()
        self._directory = directory / "sentinel"
        self._directory.mkdir()
        settings = self._directory / "sentinel.conf"
        settings.write_text(
            f"bind 127.0.0.1\nport {self._port}\ndir {self._directory}\n"
            f"sentinel monitor main 127.0.0.1 {primary} 1\n"
            f"sentinel auth-pass main {PASSWORD}\n"
            "sentinel down-after-milliseconds main 60000\nsentinel failover-timeout main 3000\n"
        )
        program = named(find_program("redis"), self._directory)
        argv = [str(program), str(settings), "--sentinel"]
        self._server = Server("sentinel", argv, directory=self._directory, spawner=self._spawner)

    def __enter__(self) -> int:
        self._server.start()
        self._server.wait_ready(self._is_ready, deadline_s=20.0)
        return self._port

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._spawner.close()
        shutil.rmtree(self._directory)

    def _is_ready(self) -> bool:
        try:
            with redis.Redis(port=self._port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


def _cluster_info(server: RedisServer) -> bytes:
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        client.response_callbacks.pop("CLUSTER INFO", None)
        return bytes(client.execute_command("CLUSTER INFO"))


def _strangers(server: RedisServer) -> int:
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        return len(client.client_list()) - 1


def _holds(server: RedisServer, text: str) -> bool:
    with redis.Redis(unix_socket_path=str(server.socket), password=PASSWORD) as client:
        return bool(client.get(str(KEY)) == text.encode())


def _knows_replica(port: int) -> bool:
    with redis.Redis(port=port) as client:
        return int(client.sentinel_master("main")["num-slaves"]) == 1
