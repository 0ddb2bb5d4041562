"""Which store the environment names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controlplane.errors import ConfigError
from controlplane.store.config import choose_endpoint, open_store
from controlplane.store.redis import RedisStore
from controlplane.store.sqlite import SqliteStore

REDIS = {"REDIS_ADDR": "h:1", "REDIS_PASSWORD": "p"}


@pytest.mark.parametrize("environ", [{}, {"STORE_TYPE": "valkey"}, {"REDIS_ADDR": " "}])
def test_defect_8_nothing_configured_is_no_store(environ: dict[str, str]) -> None:
    assert open_store(environ) is None


async def test_an_address_and_a_password_are_a_redis_store() -> None:
    store = open_store(REDIS)
    assert isinstance(store, RedisStore)
    assert repr(store) == "RedisStore(h:1)"
    await store.close()


async def test_a_path_is_a_sqlite_store(tmp_path: Path) -> None:
    store = open_store({}, sqlite_path=tmp_path / "m.db")
    assert isinstance(store, SqliteStore)
    await store.close()
    assert not os.listdir(tmp_path)  # it connects on first use


def test_valkey_has_variables_of_its_own() -> None:
    endpoint = choose_endpoint(
        {**REDIS, "STORE_TYPE": "ValKey", "VALKEY_ADDR": "v:2", "VALKEY_PASSWORD": "q"}
    )
    assert endpoint is not None
    assert (endpoint.hosts, endpoint.credentials.password) == ((("v", 2),), "q")


@pytest.mark.parametrize("word", ["false", "FALSE", " False "])
def test_a_server_without_a_password_has_to_be_declared(word: str) -> None:
    assert choose_endpoint({"REDIS_ADDR": "h", "REDIS_PASSWORD_REQUIRED": word}) is not None


def test_a_password_in_the_url_will_do() -> None:
    assert choose_endpoint({"REDIS_ADDR": "rediss://:p@h"}) is not None


@pytest.mark.parametrize(
    ("environ", "hint"),
    [
        ({"STORE_TYPE": "etcd"}, "redis or valkey"),
        ({"REDIS_ADDR": "h"}, "REDIS_PASSWORD_REQUIRED=false"),
        ({"REDIS_ADDR": "h", "REDIS_PASSWORD_REQUIRED": "no"}, "REDIS_PASSWORD"),
        ({"VALKEY_ADDR": "h", "VALKEY_PASSWORD": "p"}, "STORE_TYPE=valkey"),
        ({"STORE_TYPE": "valkey", **REDIS}, "STORE_TYPE=redis"),
        ({**REDIS, "REDIS_TLS_CA_FILE": "/ca"}, "no URL with TLS"),
        ({**REDIS, "REDIS_ADDR": "rediss://h", "REDIS_TLS_CA_FILE": "/absent"}, "no file"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_half_configured_is_an_error(environ: dict[str, str], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        open_store(environ)


def test_two_stores_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two artifact stores"):
        open_store(REDIS, sqlite_path=tmp_path / "m.db")
