"""Choose the artifact store from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from controlplane.errors import ConfigError
from controlplane.store.clients import RedisLimits
from controlplane.store.endpoint import Credentials, Endpoint, parse_endpoint
from controlplane.store.redis import RedisStore
from controlplane.store.sqlite import SqliteStore
from controlplane.store.store import ArtifactStore


def open_store(
    environ: Mapping[str, str],
    *,
    sqlite_path: Path | None = None,
    limits: RedisLimits | None = None,
) -> ArtifactStore | None:
    """The configured store, which connects on first use; None if none is: SnapStart is off.

    environ: STORE_TYPE (`redis`, the default, or `valkey`), then, for redis, REDIS_ADDR (host:port
    or a URL), REDIS_PASSWORD, REDIS_PASSWORD_REQUIRED (`false`: do without), REDIS_USERNAME,
    REDIS_TLS_CA_FILE (PEM, for a `rediss` URL); the same with VALKEY_ for valkey. sqlite_path: a
    file for a control plane of one machine.
    Raises: ConfigError if something is configured, but not well: the caller goes on without a
    store, and says so loudly.
    """
    endpoint = choose_endpoint(environ)
    if endpoint is not None and sqlite_path is not None:
        raise ConfigError(
            f"two artifact stores are configured: {endpoint} and the file {sqlite_path}",
            hint="unset one of them",
        )
    if sqlite_path is not None:
        return SqliteStore(sqlite_path)
    return None if endpoint is None else RedisStore(endpoint, limits)


def choose_endpoint(environ: Mapping[str, str]) -> Endpoint | None:
    """The server that the environment names, None if it names none. Raises: ConfigError."""
    kind = (environ.get("STORE_TYPE") or "redis").strip().lower()
    if kind not in ("redis", "valkey"):
        raise ConfigError(f"STORE_TYPE is {kind!r}", hint="set it to redis or valkey")
    prefix = kind.upper()
    address = environ.get(f"{prefix}_ADDR", "").strip()
    if not address:
        _refuse_other_address(environ, prefix)
        return None
    endpoint = parse_endpoint(
        address,
        Credentials(environ.get(f"{prefix}_USERNAME", ""), environ.get(f"{prefix}_PASSWORD", "")),
        ca_file=environ.get(f"{prefix}_TLS_CA_FILE", ""),
    )
    _check_password(environ, prefix, endpoint)
    _check_ca_file(prefix, endpoint)
    return endpoint


def _refuse_other_address(environ: Mapping[str, str], prefix: str) -> None:
    other = "VALKEY" if prefix == "REDIS" else "REDIS"
    if environ.get(f"{other}_ADDR", "").strip():
        raise ConfigError(
            f"{other}_ADDR is set, {prefix}_ADDR is not, and STORE_TYPE selects the latter",
            hint=f"set STORE_TYPE={other.lower()}",
        )


def _check_password(environ: Mapping[str, str], prefix: str, endpoint: Endpoint) -> None:
    name = f"{prefix}_PASSWORD_REQUIRED"
    is_required = environ.get(name, "").strip().lower() != "false"
    if is_required and not endpoint.credentials.password:
        raise ConfigError(
            f"{prefix}_ADDR is set, {prefix}_PASSWORD is not",
            hint=f"set it, or {name}=false for a server without a password",
        )


def _check_ca_file(prefix: str, endpoint: Endpoint) -> None:
    """The path only: what is in it may be renewed while we run."""
    if not endpoint.ca_file:
        return
    name = f"{prefix}_TLS_CA_FILE"
    if not endpoint.is_tls:
        raise ConfigError(f"{name} is set, but {prefix}_ADDR is no URL with TLS")
    if not Path(endpoint.ca_file).is_file():
        raise ConfigError(f"{name} names {endpoint.ca_file!r}, which is no file")
