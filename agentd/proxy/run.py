"""Run the proxy of a node agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NoReturn

import structlog
from aiohttp import web

from agentd.engine.tasks import uninterrupted
from agentd.errors import SnapStartError
from agentd.kuasar.client import KuasarAccess, PodSandboxes
from agentd.providers.driver import SnapshotDriver
from agentd.proxy.accepting import Acceptor, open_listener
from agentd.proxy.address import choose_address
from agentd.proxy.bearer import TokenSource
from agentd.proxy.calls import Calls
from agentd.proxy.connection import Connection
from agentd.proxy.limits import Deadlines
from agentd.proxy.templates import Templates
from agentd.proxy.tls import TlsFiles
from agentd.settings import Proxy

_PAUSE_S: Final = 30.0
_STOP_S: Final = 1.0


@dataclass(frozen=True)
class Outside:
    """What a proxy works with.

    node_addresses: of the Node, empty if they cannot be told. cluster: UID of the kube-system
    namespace. driver, access, pods: of this node's sandboxer, its container runtime.
    """

    settings: Proxy
    environ: Mapping[str, str]
    node_name: str
    node_addresses: Collection[str]
    cluster: str
    driver: SnapshotDriver
    access: KuasarAccess
    pods: PodSandboxes
    deadlines: Deadlines = field(default_factory=Deadlines)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


async def run_proxy(outside: Outside) -> NoReturn:
    """Serve on the Pod's address until cancelled.

    What keeps it from serving is told, and it tries again: the rest of the agent needs no proxy.
    Cancellation: cuts connections; a snapshot that was begun goes on.
    """
    log = structlog.get_logger()
    while True:
        try:
            address = choose_address(outside.environ, outside.node_addresses)
            async with serving(outside, address, outside.settings.port) as port:
                log.info("proxy.ready", address=address, port=port)
                await asyncio.Event().wait()
        except SnapStartError as exc:
            log.warning("proxy.failed", code=exc.code.value, error=str(exc), retry_s=_PAUSE_S)
            await asyncio.sleep(_PAUSE_S)


@asynccontextmanager
async def serving(outside: Outside, address: str, port: int) -> AsyncIterator[int]:
    """Serve on an address until left. port: 0 takes a free one. Yields: the port.

    Raises: ConfigError: no token, unusable certificates, an address that is not ours;
    TransientError: somebody else listens there. Cancellation: as leaving, which cuts connections.
    """
    token = TokenSource(outside.environ, outside.settings.token_file)
    token.read()
    tls = _tls_of(outside.settings)
    calls = Calls(_templates_of(outside), token, outside.deadlines)
    server = web.Server(calls.handle)
    loop = asyncio.get_running_loop()
    listener = open_listener(address, port)
    acceptor = Acceptor(
        listener,
        lambda: Connection(server, loop, outside.deadlines, calls.answer_bad),
        tls.context if tls else None,
        outside.deadlines.header_s,
    )
    try:
        yield listener.getsockname()[1]
    finally:
        await uninterrupted(_close(acceptor, calls, server))


async def _close(acceptor: Acceptor, calls: Calls, server: web.Server) -> None:
    await acceptor.close()
    await calls.close()
    await server.shutdown(_STOP_S)


def _templates_of(outside: Outside) -> Templates:
    return Templates(
        outside.driver,
        outside.access,
        outside.pods,
        cluster=outside.cluster,
        node_name=outside.node_name,
        now=outside.now,
    )


def _tls_of(settings: Proxy) -> TlsFiles | None:
    if settings.certificate_file is None or settings.key_file is None:
        return None
    return TlsFiles(settings.certificate_file, settings.key_file, settings.client_ca_file)
