"""Addresses of stores."""

from __future__ import annotations

import pytest

from controlplane.errors import ConfigError
from controlplane.store.endpoint import Credentials, Endpoint, Topology, parse_endpoint

NOBODY = Credentials()


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("redis:6379", (("redis", 6379),)),
        ("redis", (("redis", 6379),)),
        ("[::1]:7000", (("::1", 7000),)),
        ("redis://h:1", (("h", 1),)),
        ("redis+cluster://a:1,b", (("a", 1), ("b", 6379))),
        ("redis+sentinel://a, b:7/main", (("a", 26379), ("b", 7))),
    ],
)
def test_hosts_are_read(address: str, hosts: tuple[tuple[str, int], ...]) -> None:
    assert parse_endpoint(address, NOBODY).hosts == hosts


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_tls_and_database_come_from_the_url(scheme: str) -> None:
    endpoint = parse_endpoint(f"{scheme}s://h/5", NOBODY, ca_file="/ca")
    assert endpoint == Endpoint(
        Topology.SINGLE, (("h", 6379),), database=5, is_tls=True, ca_file="/ca"
    )


def test_unix_sockets_have_a_path_and_a_database() -> None:
    endpoint = parse_endpoint("unix:///run/redis%20x.sock?db=2", NOBODY)
    assert (endpoint.path, endpoint.database, endpoint.hosts) == ("/run/redis x.sock", 2, ())


def test_sentinels_have_credentials_of_their_own() -> None:
    endpoint = parse_endpoint("rediss+sentinel://watch:dog@a/main/3", Credentials("app", "secret"))
    assert endpoint.sentinel_credentials == Credentials("watch", "dog")
    assert endpoint.credentials == Credentials("app", "secret")
    assert (endpoint.service, endpoint.database) == ("main", 3)


def test_given_credentials_win_over_those_in_the_url() -> None:
    endpoint = parse_endpoint("redis://u:in%2Furl@h", Credentials("", "given"))
    assert endpoint.credentials == Credentials("u", "given")
    assert parse_endpoint("redis://u:in%2Furl@h", NOBODY).credentials.password == "in/url"


@pytest.mark.parametrize(
    "address",
    [
        "http://h",
        "redis://",
        "h:port",
        "h:99999",
        "redis://h/x",
        "redis://h/1/2",
        "redis://h?ssl=1",
        "redis+sentinel://h",
        "redis+cluster://h/1",
        "unix://relative",
        "unix:///s?db=x",
        "redis://h:6379,",
        "redis://a,b",
    ],
)
def test_an_address_that_cannot_be_used_is_refused(address: str) -> None:
    with pytest.raises(ConfigError):
        parse_endpoint(address, NOBODY)


@pytest.mark.parametrize("address", ["redis://u:hush@h/x", "ftp://u:hush@h", "redis://u:hush@h:x"])
def test_a_password_is_never_shown(address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint(address, NOBODY)
    assert "hush" not in str(caught.value)


def test_an_endpoint_shows_no_password() -> None:
    endpoint = parse_endpoint("redis://u:hush@h", NOBODY)
    assert "hush" not in f"{endpoint} {endpoint!r}"
    assert str(endpoint) == "h:6379"
