"""The servers that the store is tested with are real and keep their data."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.kube.process import ServerDiedError
from tests.kube.redisd import REDIS_BY_ANOTHER_NAME, RedisServer, find_redis


# Of the session as what it returns is: a server started within a test would count as left over.
@pytest.fixture(scope="session", params=["redis_server", "valkey_server"])
def server(request: pytest.FixtureRequest) -> RedisServer:
    found: RedisServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kv-") as name:
        yield Path(name)


def test_it_answers_by_port_and_by_socket(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        assert client.get("key") == b"value"


@pytest.mark.restarts
def test_what_it_confirmed_survives_its_death(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "value")
    server.kill()
    with redis.Redis.from_url(server.url) as client, pytest.raises(redis.ConnectionError):
        client.get("kept")
    server.restart()
    with redis.Redis.from_url(server.url) as client:
        assert client.get("kept") == b"value"


def test_debians_program_is_a_server_without_the_package_that_starts_a_service(
    directory: Path,
) -> None:
    program = shutil.which(REDIS_BY_ANOTHER_NAME)
    if program is None:
        pytest.skip("redis-tools is not installed")
    with (
        RedisServer(directory, Path(program)) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        assert client.info("server")["redis_mode"] == "standalone"


def test_options_win_over_the_defaults(directory: Path) -> None:
    program = find_redis()
    if program is None:
        pytest.skip("there is no redis-server")
    options = ["--requirepass", "secret", "--appendonly", "no"]
    with RedisServer(directory, program, options=options) as server:
        with redis.Redis.from_url(server.url) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
        with redis.Redis.from_url(server.url, password="secret") as client:
            assert client.config_get("appendonly") == {"appendonly": "no"}


def test_a_server_that_refuses_its_options_is_an_error_with_its_words(directory: Path) -> None:
    program = find_redis()
    if program is None:
        pytest.skip("there is no redis-server")
    with (
        pytest.raises(ServerDiedError, match=r"ended with 1; the end of(.|\n)*no-such-option"),
        RedisServer(directory, program, options=["--no-such-option", "1"]),
    ):
        pass


def test_a_directory_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use a shorter directory"):
        RedisServer(tmp_path / ("x" * 100), Path("/bin/false"))


def test_a_clusters_node_listens_on_no_port_but_its_own_two(directory: Path) -> None:
    program = find_redis()
    if program is None:
        pytest.skip("there is no redis-server")
    with RedisServer(directory, program, is_clustered=True) as server:
        links = psutil.Process(server.pid).net_connections("tcp")
    assert {link.laddr.port for link in links} == {server.port, server.bus}
