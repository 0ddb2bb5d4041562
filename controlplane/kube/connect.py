"""Open connections to the API server with the credentials at hand."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException, load_kube_config_from_dict
from kubernetes_asyncio.config.incluster_config import (
    SERVICE_HOST_ENV_NAME,
    InClusterConfigLoader,
)

from controlplane.errors import ConfigError, InvariantError
from controlplane.kube.kubeconfig import read_kubeconfig
from controlplane.kube.owned_socket import OwnedSocket

_PRIVATE: Final = ("_socket_factory", "_cleanup_closed_disabled", "_cleanup_closed")


@dataclass(frozen=True)
class KubeSettings:
    """Which API server, and how patiently.

    kubeconfig: files separated by ":"; empty: $KUBECONFIG, else the service account when in a
    cluster, else ~/.kube/config. context: empty is the current one. user_agent: its part before
    "/" is the manager that the server notes for fields written other than by apply.
    call_timeout_s: for one call, whole. silence_s: a watch without any line for so long is taken
    for dead; bookmarks come about once a minute. watch_s: the server ends a watch after this, up to
    twice this, so that clients spread over servers. response_max_bytes: of one answer.
    line_max_bytes: of one event of a watch.
    """

    kubeconfig: str = ""
    context: str = ""
    user_agent: str = "snapstart"
    call_timeout_s: float = 30.0
    connect_timeout_s: float = 5.0
    silence_s: float = 150.0
    watch_s: float = 300.0
    response_max_bytes: int = 128 << 20
    line_max_bytes: int = 16 << 20
    service_account_dir: str = "/var/run/secrets/kubernetes.io/serviceaccount"


async def open_session(settings: KubeSettings, environ: Mapping[str, str]) -> ApiClient:
    """A session with credentials as they are now; the caller closes it.

    Bound service account tokens are read anew every minute. Raises: ConfigError.
    """
    configuration = Configuration()
    with tempfile.TemporaryDirectory(prefix="snapstart-kube-") as directory:
        try:
            await _load(configuration, settings, environ, Path(directory))
            client = ApiClient(configuration)
        except (ConfigException, OSError, ValueError, KeyError, TypeError) as exc:
            raise ConfigError(
                f"cannot use the Kubernetes credentials: {type(exc).__name__}: {exc}",
                hint="check the kubeconfig, or the service account of this Pod",
            ) from exc
    client.user_agent = settings.user_agent
    _own_connections(client)
    return client


def _own_connections(client: ApiClient) -> None:
    """The library makes the connector, and offers no way to pass what it should be like.

    A connection that a call gave up says good-bye over TLS and waits for the other side; the
    connector has forgotten it by then, unless it is told to end such connections soon, and when it
    is closed.
    """
    connector: Any = client.rest_client.pool_manager.connector
    if not all(hasattr(connector, name) for name in _PRIVATE):
        raise InvariantError("this aiohttp keeps its connections in a way that is not known here")
    connector._socket_factory = _open_socket
    connector._cleanup_closed_disabled = False  # `enable_cleanup_closed`
    connector._cleanup_closed()


def _open_socket(address: tuple[Any, ...]) -> OwnedSocket:
    """address: as of socket.getaddrinfo."""
    family, kind, proto, _name, _sockaddr = address
    return OwnedSocket(family, kind, proto)


async def _load(
    configuration: Configuration,
    settings: KubeSettings,
    environ: Mapping[str, str],
    directory: Path,
) -> None:
    paths = settings.kubeconfig or environ.get("KUBECONFIG", "")
    if not paths and environ.get(SERVICE_HOST_ENV_NAME):
        account = settings.service_account_dir
        loader = InClusterConfigLoader(
            f"{account}/token", f"{account}/ca.crt", environ=dict(environ)
        )
        loader.load_and_set(configuration)
        return
    paths = paths or str(Path(environ.get("HOME", "/"), ".kube/config"))
    await load_kube_config_from_dict(
        read_kubeconfig(paths, directory),
        context=settings.context or None,
        client_configuration=configuration,
        temp_file_path=str(directory),
    )


def call_timeout(settings: KubeSettings) -> aiohttp.ClientTimeout:
    """For one call."""
    return aiohttp.ClientTimeout(
        total=settings.call_timeout_s, sock_connect=settings.connect_timeout_s
    )


def watch_timeout(settings: KubeSettings) -> aiohttp.ClientTimeout:
    """For a watch: no limit on the whole, one on silence."""
    return aiohttp.ClientTimeout(
        total=None,
        connect=settings.call_timeout_s,
        sock_connect=settings.connect_timeout_s,
        sock_read=settings.silence_s,
    )
