"""Read the address of a Redis or Valkey server."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from controlplane.errors import ConfigError

_DATA_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


class Topology(enum.StrEnum):
    """What stands behind an address."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True)
class Credentials:
    """A user of an ACL, or only a password; both may be empty. Never printed."""

    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class Endpoint:
    """Where a store is, how to talk to it.

    hosts: (name, port) of the server, or of sentinels, or of some cluster members. path: a UNIX
    socket instead of hosts. service: the name that sentinels know. database: always 0 in a cluster.
    ca_file: PEM, in place of the system's authorities. sentinel_credentials: for the sentinels.
    """

    topology: Topology
    hosts: tuple[tuple[str, int], ...]
    path: str = ""
    service: str = ""
    database: int = 0
    is_tls: bool = False
    ca_file: str = ""
    credentials: Credentials = Credentials()
    sentinel_credentials: Credentials = Credentials()

    def __str__(self) -> str:
        hosts = ",".join(f"[{h}]:{p}" if ":" in h else f"{h}:{p}" for h, p in self.hosts)
        return self.path or (f"{hosts} ({self.service})" if self.service else hosts)


_SCHEMES: Final[Mapping[str, tuple[Topology, bool]]] = {
    "redis": (Topology.SINGLE, False),
    "rediss": (Topology.SINGLE, True),
    "unix": (Topology.SINGLE, False),
    "redis+sentinel": (Topology.SENTINEL, False),
    "rediss+sentinel": (Topology.SENTINEL, True),
    "redis+cluster": (Topology.CLUSTER, False),
    "rediss+cluster": (Topology.CLUSTER, True),
}


def parse_endpoint(address: str, credentials: Credentials, *, ca_file: str = "") -> Endpoint:
    """Read `host:port` or a URL.

    URLs: `redis://host:port/db`, `unix:///path?db=n`, `redis+sentinel://h1:p1,h2:p2/service/db`,
    `redis+cluster://h1:p1,h2:p2`; `rediss` in place of `redis` for TLS; `valkey` for `redis`
    everywhere. A user and password in it are the server's, unless `credentials` has them already;
    in a sentinel URL they are the sentinels' own.
    Raises: ConfigError, which does not repeat the address: it may hold a password.
    """
    has_scheme = "://" in address
    try:
        url = urlsplit(address if has_scheme else f"redis://{address}")
        scheme = url.scheme.replace("valkey", "redis", 1)
        topology, is_tls = _SCHEMES[scheme]
        return _from_url(url, topology, is_tls, credentials, ca_file)
    except KeyError:
        raise ConfigError(
            f"the store's address has an unknown scheme {url.scheme!r}",
            hint=f"use host:port or one of {', '.join(f'{s}://' for s in _SCHEMES)}",
        ) from None
    except ValueError as exc:
        raise ConfigError(
            f"the store's address cannot be read: {exc}",
            hint="use host:port or a URL such as redis://host:6379/0",
        ) from None


def _from_url(
    url: SplitResult, topology: Topology, is_tls: bool, given: Credentials, ca_file: str
) -> Endpoint:
    userinfo, _, hosts = url.netloc.rpartition("@")
    found = _credentials(userinfo)
    merged = Credentials(given.username or found.username, given.password or found.password)
    is_sentinel = topology is Topology.SENTINEL
    service, database = _path_parts(url, topology)
    if topology is Topology.SINGLE and "," in hosts:
        raise ValueError("it names several hosts, which is for sentinels and clusters")
    return Endpoint(
        topology=topology,
        hosts=() if url.scheme == "unix" else _hosts(hosts, is_sentinel),
        path=_socket_path(url) if url.scheme == "unix" else "",
        service=service,
        database=database,
        is_tls=is_tls,
        ca_file=ca_file,
        credentials=given if is_sentinel else merged,
        sentinel_credentials=found if is_sentinel else Credentials(),
    )


def _credentials(userinfo: str) -> Credentials:
    username, _, password = userinfo.partition(":")
    return Credentials(unquote(username), unquote(password))


def _hosts(text: str, is_sentinel: bool) -> tuple[tuple[str, int], ...]:
    parts = [urlsplit(f"//{one.strip()}") for one in text.split(",")]
    default = _SENTINEL_PORT if is_sentinel else _DATA_PORT
    if any(not part.hostname or part.path for part in parts):
        raise ValueError("a host is missing")
    return tuple((part.hostname or "", part.port or default) for part in parts)


def _path_parts(url: SplitResult, topology: Topology) -> tuple[str, int]:
    """The service and the database that a URL names."""
    if url.scheme == "unix":
        return "", _database(url.query.removeprefix("db="))
    if url.query or url.fragment:
        raise ValueError("it has parameters, of which there are none")
    parts = [unquote(part) for part in url.path.strip("/").split("/") if part]
    service = parts.pop(0) if topology is Topology.SENTINEL and parts else ""
    if topology is Topology.SENTINEL and not service:
        raise ValueError("a sentinel URL ends in the name of the service")
    if len(parts) > 1 or (parts and topology is Topology.CLUSTER):
        raise ValueError("its path is too long")
    return service, _database(parts[0] if parts else "")


def _socket_path(url: SplitResult) -> str:
    if not url.path.startswith("/") or len(url.path) < 2:
        raise ValueError("a UNIX socket needs an absolute path")
    return unquote(url.path)


def _database(text: str) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError("its database is no number")
    return int(text or 0)
