"""A proxy on an address of the loopback's network, its callers, what it writes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from agentd.kuasar.client import Form, KuasarClient, KuasarTemplate, PodRef
from agentd.log_setup import configure_logging
from agentd.providers.driver import CreateRequest, LocalArtifact
from agentd.proxy.limits import Deadlines
from agentd.proxy.run import Outside, serving
from agentd.settings import Proxy
from controlplane.api.types import SnapshotMode

ADDRESS = "127.0.0.2"
TOKEN = "t0ken-" + "f" * 32
NODE = "node-a"
CLUSTER = "0f5b-cluster"
SANDBOX = "5e" * 32
OWNER = {
    "namespace": "team",
    "runtime_name": "python-runtime",
    "snap_start_name": "python-fast",
    "snap_start_uid": "0d0c1e3e-77a5",
    "node_name": NODE,
}
CREATE = {
    "action": "create-template",
    "sandbox_id": SANDBOX,
    "snapshot_type": "warm_fork",
    "key": "python-ready-1",
    "owner": OWNER,
}
LIST = {"action": "list-templates"}


def delete(template_id: str) -> dict[str, str]:
    return {"action": "delete-template", "template_id": template_id}


# -- what it works with ---------------------------------------------------------------------------


class FakeDriver:
    """Implements SnapshotDriver; waits at `gate`, raises `error`."""

    name = "snapstart.kuasar.io"

    def __init__(self) -> None:
        self.artifacts: dict[str, LocalArtifact] = {}
        self.created: list[CreateRequest] = []
        self.calls = 0
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def _enter(self) -> None:
        self.calls += 1
        self.entered.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    async def capabilities(self) -> frozenset[SnapshotMode]:
        return frozenset({SnapshotMode.FORK})

    async def create(self, request: CreateRequest) -> LocalArtifact:
        await self._enter()
        self.created.append(request)
        made = self.artifacts[request.key] = LocalArtifact(
            request.key,
            request.snapshot_hash,
            request.mode,
            True,
            0,
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            request.owner,
        )
        return made

    async def delete(self, key: str) -> bool:
        await self._enter()
        return self.artifacts.pop(key, None) is not None

    async def list(self) -> list[LocalArtifact]:
        await self._enter()
        return [*self.artifacts.values()]

    async def inspect(self, key: str) -> LocalArtifact | None:
        return self.artifacts.get(key)


class FakeAccess:
    """Implements KuasarAccess for one client, which only lists what the driver has."""

    def __init__(self, driver: FakeDriver) -> None:
        self.turn = asyncio.Lock()
        self.driver = driver

    async def client(self) -> KuasarClient:
        return _ListOnly(self.driver)  # type: ignore[return-value]

    async def require_settled(self) -> None:
        """It always is."""


class _ListOnly:
    form = Form.GRPC

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    async def list(self) -> list[KuasarTemplate]:
        return [KuasarTemplate(key, SnapshotMode.FORK) for key in self._driver.artifacts]


class FakePods:
    """Implements PodSandboxes for one Pod."""

    async def sandbox_of(self, pod: PodRef) -> str:
        return {"pod-uid": SANDBOX}[pod.uid]

    async def pod_uids(self) -> dict[str, str]:
        return {SANDBOX: "pod-uid"}


# -- what it writes -------------------------------------------------------------------------------


class Written:
    """Everything that is logged, through whichever library, at any level."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The audit lines."""
        lines = (line for line in self.text.splitlines() if '"proxy.call"' in line)
        return [json.loads(line) for line in lines]


@contextmanager
def all_written() -> Iterator[Written]:
    """Puts back what was configured."""
    written = Written()
    before = structlog.get_config()
    root, level = logging.getLogger(), logging.getLogger().level
    handler = logging.StreamHandler(written.stream)
    configure_logging("debug", "json", written.stream)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        structlog.configure(**before)


# -- who calls it ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came back until the connection's end. status: 0 if nothing did."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


def parsed(data: bytes) -> Answer:
    """The first reply of a connection with everything after it."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    if not status:
        return Answer(0, {}, b"")
    pairs = (line.partition(": ") for line in lines)
    return Answer(int(status.split()[1]), {name.lower(): value for name, _, value in pairs}, body)


def post(body: bytes, *headers: str, token: str = TOKEN, length: int | None = None) -> bytes:
    """A request as bytes. length: what it claims; None is the truth."""
    lines = [
        "POST /kuasar-admin HTTP/1.1",
        "Host: proxy",
        f"Authorization: Bearer {token}",
        *headers,
    ]
    if not any(line.lower().startswith("transfer-encoding") for line in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@dataclass
class Caller:
    """Who talks to a proxy. context: TLS, if any."""

    port: int
    context: ssl.SSLContext | None = None

    @asynccontextmanager
    async def connected(
        self,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(ADDRESS, self.port, ssl=self.context)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def send(self, data: bytes, *, eof: bool = False) -> Answer:
        """Send bytes, read to the end."""
        async with self.connected() as (reader, writer):
            writer.write(data)
            if eof:
                writer.write_eof()
            with contextlib.suppress(ConnectionError):
                return parsed(await reader.read())
        return parsed(b"")

    async def ask(self, members: object, **how: Any) -> Answer:
        """A call with a JSON body."""
        return await self.send(post(json.dumps(members).encode(), **how))


@dataclass
class World:
    """A proxy that serves, on a driver that does as it is told."""

    driver: FakeDriver
    written: Written
    caller: Caller


def outside(driver: FakeDriver, **changes: Any) -> Outside:
    """On a fake driver; deadlines are those of the product unless they are changed."""
    values = {
        "settings": Proxy(enabled=True),
        "environ": {"KUASAR_PROXY_TOKEN": TOKEN},
        "node_name": NODE,
        "node_addresses": (),
        "cluster": CLUSTER,
        "driver": driver,
        "access": FakeAccess(driver),
        "pods": FakePods(),
    }
    return Outside(**{**values, **changes})


@asynccontextmanager
async def proxy_world(**changes: Any) -> AsyncIterator[World]:
    """Deadlines that a test does not name are its own timeout's concern."""
    with all_written() as written:
        driver = FakeDriver()
        async with serving(outside(driver, **changes), ADDRESS, 0) as port:
            yield World(driver, written, Caller(port))


def deadlines(**seconds: float) -> Deadlines:
    """Those that are named; the others never end within a test."""
    names = ("header_s", "body_s", "call_s", "create_s", "answer_s")
    return Deadlines(**{**dict.fromkeys(names, 300.0), "linger_s": 0.2, **seconds})


async def until(check: Callable[[], object]) -> None:
    """Look until it is so; the test's own timeout is the limit."""
    while not check():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0.005)


def connections() -> list[asyncio.Task[Any]]:
    """Those that proxies have."""
    return [one for one in asyncio.all_tasks() if one.get_name() == "proxy-connection"]


def write_token(path: Path, token: str) -> Path:
    path.write_text(token)
    return path
