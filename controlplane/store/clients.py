"""Open clients of Redis or Valkey."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from controlplane.store.endpoint import Credentials, Endpoint, Topology


@dataclass(frozen=True)
class RedisLimits:
    """connect_s: for a connection. call_s: for a whole call, connecting included.

    connections: at most so many to a server; more calls than that wait.
    """

    connect_s: float = 2.0
    call_s: float = 5.0
    connections: int = 16


class Client(Protocol):
    """The part of a client that is used here, the same in all topologies."""

    async def execute_command(self, *args: Any) -> Any:
        """Send one command."""

    def scan_iter(self, match: str, count: int) -> AsyncGenerator[bytes, None]:
        """Every key that matches, some twice."""

    async def aclose(self) -> None:
        """Close idle connections, and those in use."""


def open_clients(endpoint: Endpoint, limits: RedisLimits) -> tuple[Client, ...]:
    """Make the client to talk to, then others to be closed with it. Connects on first use.

    No call is tried again by the client: a write whose answer was lost may have happened, and a
    second try would see its own text as another's.
    """
    match endpoint.topology:
        case Topology.SINGLE:
            return (_single(endpoint, limits),)
        case Topology.SENTINEL:
            return _behind_sentinels(endpoint, limits)
        case Topology.CLUSTER:
            return (_cluster(endpoint, limits),)


def _single(endpoint: Endpoint, limits: RedisLimits) -> Client:
    options = _options(endpoint, limits, endpoint.credentials) | {"db": endpoint.database}
    if endpoint.path:
        return _as_client(Redis(unix_socket_path=endpoint.path, **options))
    ((host, port),) = endpoint.hosts
    return _as_client(Redis(host=host, port=port, **options))


def _behind_sentinels(endpoint: Endpoint, limits: RedisLimits) -> tuple[Client, ...]:
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        endpoint.hosts,
        sentinel_kwargs=_options(endpoint, limits, endpoint.sentinel_credentials),
        **_options(endpoint, limits, endpoint.credentials),
        db=endpoint.database,
    )
    primary = sentinels.master_for(endpoint.service)
    return (_as_client(primary), *(_as_client(one) for one in sentinels.sentinels))


def _cluster(endpoint: Endpoint, limits: RedisLimits) -> Client:
    nodes = [ClusterNode(host, port) for host, port in endpoint.hosts]
    return _as_client(
        RedisCluster(startup_nodes=nodes, **_options(endpoint, limits, endpoint.credentials))
    )


def _options(endpoint: Endpoint, limits: RedisLimits, who: Credentials) -> dict[str, Any]:
    options: dict[str, Any] = {
        "username": who.username or None,
        "password": who.password or None,
        "socket_connect_timeout": limits.connect_s,
        "socket_timeout": limits.call_s,
        "max_connections": limits.connections,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if endpoint.is_tls:
        options |= {
            "ssl": True,
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": endpoint.ca_file or None,
        }
    return options


def _as_client(client: Any) -> Client:
    made: Client = client
    return made
