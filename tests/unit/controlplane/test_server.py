"""The program as a whole, on an API server and a store in memory."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import structlog
from prometheus_client import CollectorRegistry

from controlplane.api import names
from controlplane.api.types import SnapshotPhase
from controlplane.health import Health, Readiness
from controlplane.kube.resource import LEASES, SECRETS
from controlplane.metrics import ProgramMetrics
from controlplane.server import Server, _opened_store, policy_of, serve
from controlplane.settings import Http, Kube, Leader, Program, Settings, Snapshots, Webhooks
from controlplane.store.store import ArtifactStore
from tests.fakes.kube import FakeKube
from tests.fakes.snapshot_world import World, make_world
from tests.fakes.store import FakeStore

NAMESPACE = "agentcube-system"


def _settings(identity: str, **more: object) -> Settings:
    return Settings(
        program=Program(identity=identity),
        webhooks=Webhooks(host="127.0.0.1", port=0),
        leader=Leader(duration_s=2, deadline_s=1.0, retry_s=0.1),
        **more,  # type: ignore[arg-type]
    )


class Replica:
    """One process of the control plane."""

    def __init__(self, world: World, identity: str, store: ArtifactStore | None) -> None:
        self.kube = FakeKube(world.cluster)
        self.registry = CollectorRegistry()
        self.program = ProgramMetrics(self.registry)
        settings = _settings(identity)
        self.health = Health()
        self.server = Server(self.kube, store, settings, self.registry, self.program, self.health)

    @property
    def leads(self) -> bool:
        return self.registry.get_sample_value("agentcube_snapshot_controller_leader") == 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.server.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def world() -> World:
    world = make_world("node-a")
    body = {
        "metadata": {"name": names.agent_lease("node-a"), "namespace": NAMESPACE},
        "spec": {"holderIdentity": "node-a", "leaseDurationSeconds": 3600},
    }
    world.cluster.create(LEASES, body)
    return world


async def _until(world: World, holds: Callable[[], bool]) -> None:
    while not holds():
        world.run_agents()
        await asyncio.sleep(0.01)


def _is_ready(world: World) -> bool:
    status = world.snapshot.status
    return status is not None and status.phase is SnapshotPhase.READY


async def test_a_replica_leads_builds_and_serves(world: World) -> None:
    replica = Replica(world, "a", FakeStore(world.store))
    async with replica.running():
        await _until(world, lambda: _is_ready(world) and replica.server.is_ready)
        await _until(world, lambda: bool(world.cluster.objects(SECRETS)))
        assert replica.leads
        await _check_https(replica)


async def _check_https(replica: Replica) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    url = f"https://127.0.0.1:{replica.server.webhook_port}/healthz"
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as reply:
        assert reply.status == 200


async def test_of_two_replicas_one_writes_and_the_other_takes_over(world: World) -> None:
    """Defect 54."""
    first = Replica(world, "a", FakeStore(world.store))
    second = Replica(world, "b", FakeStore(world.store))
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(_stoppable(first))
        await _until(world, lambda: first.leads)
        await stack.enter_async_context(second.running())
        await _until(world, lambda: _is_ready(world) and second.server.is_ready)
        await asyncio.sleep(0.3)
        assert not second.leads
        assert not second.kube.counts["create", "sandboxsnapshottasks"]
        running.set()
        await _until(world, lambda: second.leads)
        world.edit_template("registry.example/picod:2")
        await _until(world, lambda: world.manifest.rebuild_seq == 2 and _is_ready(world))
    assert second.kube.counts["create", "sandboxsnapshottasks"] >= 1


@asynccontextmanager
async def _stoppable(replica: Replica) -> AsyncIterator[asyncio.Event]:
    """Stops the replica when the event is set."""
    stop = asyncio.Event()

    async def run() -> None:
        async with replica.running():
            await stop.wait()

    task = asyncio.create_task(run())
    try:
        yield stop
    finally:
        stop.set()
        await task


async def test_without_a_store_nothing_is_built_and_that_is_told(world: World) -> None:
    """Defect 8."""
    replica = Replica(world, "a", None)
    async with replica.running():
        await _until(world, lambda: replica.leads)
        await asyncio.sleep(0.3)
    assert world.snapshot.status is None
    assert not world.snapshot.metadata.finalizers


async def test_without_agent_sandbox_the_program_waits(world: World) -> None:
    world.cluster.served = {}
    replica = Replica(world, "a", FakeStore(world.store))
    async with replica.running():
        await asyncio.sleep(0.1)
        assert not replica.server.is_ready


@pytest.mark.parametrize(
    ("environ", "is_on"),
    [
        ({}, False),
        ({"REDIS_ADDR": "127.0.0.1:1", "REDIS_PASSWORD": "x"}, True),
        ({"REDIS_ADDR": "127.0.0.1:1"}, False),
        ({"STORE_TYPE": "etcd"}, False),
    ],
    ids=["none", "redis", "no-password", "unknown"],
)
async def test_a_store_that_is_not_configured_well_is_off_not_a_crash(
    environ: dict[str, str], is_on: bool
) -> None:
    """Defect 8."""
    registry = CollectorRegistry()
    with structlog.testing.capture_logs() as lines:
        async with _opened_store(Settings(), environ, registry) as store:
            assert (store is not None) is is_on
    assert [line["event"] for line in lines] == ([] if is_on else ["snapshots.off"])


async def test_the_store_is_closed_when_the_start_fails(tmp_path: Path) -> None:
    """Defect 9."""
    store = FakeStore()
    settings = Settings(kube=Kube(kubeconfig=str(tmp_path / "none")), http=Http(port=0))
    with pytest.raises(Exception, match="none"):
        await serve(settings, {}, asyncio.Event(), lambda *_, **__: store)
    assert store.is_closed


async def test_the_store_is_closed_at_the_end(tmp_path: Path) -> None:
    """Defect 9."""
    store = FakeStore()
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
        "clusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}]\n"
        "users: [{name: x, user: {}}]\n"
        "contexts: [{name: x, context: {cluster: x, user: x}}]\n"
    )
    settings = Settings(kube=Kube(kubeconfig=str(kubeconfig)), http=Http(host="127.0.0.1", port=0))
    stop = asyncio.Event()
    task = asyncio.create_task(serve(settings, {}, stop, lambda *_, **__: store))
    await asyncio.sleep(0.2)
    assert not store.is_closed
    stop.set()
    await task
    assert store.is_closed


async def test_a_replica_tells_how_each_of_its_parts_is(world: World) -> None:
    replica = Replica(world, "a", FakeStore(world.store))

    def states() -> dict[str, Readiness]:
        return {part: state.readiness for part, state in replica.health.states().items()}

    assert states() == {"start": Readiness.NOT_READY, "leadership": Readiness.READY}
    async with replica.running():
        await _until(world, lambda: replica.server.is_ready and replica.leads)
        await _until(world, lambda: set(states().values()) == {Readiness.READY})
        assert set(states()) == {"start", "leadership", "watches", "store", "certificate"}
        assert "leads" in replica.health.states()["leadership"].detail


def test_the_policy_follows_the_settings() -> None:
    policy = policy_of(Settings(snapshots=Snapshots(retired_grace_s=1.0, task_retention_s=2.0)))
    assert (policy.retired_grace_s, policy.retention_s) == (1.0, 2.0)
