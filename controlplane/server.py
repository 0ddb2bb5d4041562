"""Run the control plane: what runs, in which order, how it stops."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import structlog
from prometheus_client import CollectorRegistry

from agentd.tracing import Exporter, Sink, TracingError
from controlplane.admission import SessionPath
from controlplane.errors import ConfigError, ControlPlaneError
from controlplane.health import Health, PartState, Readiness
from controlplane.kube.api import KubeApi
from controlplane.kube.client import open_kube
from controlplane.kube.connect import KubeSettings
from controlplane.kube.events import reference
from controlplane.kube.lease import LeaderElection, LeaseTiming
from controlplane.kube.leases import LeaseName
from controlplane.kube.recorder import EventRecorder
from controlplane.kube.resource import CODE_INTERPRETERS
from controlplane.kube.sandboxes import SandboxApi, discover_sandboxes
from controlplane.metrics import HealthMetrics, ProgramMetrics, serve_metrics
from controlplane.runtimes.code_interpreter import CodeInterpreterController
from controlplane.runtimes.plan import Emit
from controlplane.runtimes.public_key import PublicKey
from controlplane.runtimes.types import CodeInterpreter
from controlplane.settings import Settings, describe
from controlplane.snapshots.controller import SnapshotController
from controlplane.snapshots.metrics import SnapshotMetrics
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.store_errors import CountedStore
from controlplane.store.config import open_store
from controlplane.store.store import ArtifactStore

_RETRY_S: Final = 10.0
_COMPONENT: Final = "snapstart-controlplane"

_log = structlog.get_logger(__name__)


def run(settings: Settings, environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM or SIGINT. Raises: ConfigError."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve(settings, environ, stop)

    asyncio.run(main())


class StoreFactory(Protocol):
    """Opens the store that an environment names; None: it names none. Raises: ConfigError."""

    def __call__(
        self, environ: Mapping[str, str], *, sqlite_path: Path | None = None
    ) -> ArtifactStore | None: ...


async def serve(
    settings: Settings,
    environ: Mapping[str, str],
    stop: asyncio.Event,
    new_store: StoreFactory = open_store,
) -> None:
    """Serve until `stop` is set.

    The store is closed and the Lease given back on every way out. A cluster that is away, or lacks
    agent-sandbox, is waited for.
    Raises: ConfigError if settings or credentials cannot be used.
    Cancellation: as `stop`.
    """
    _log.info("controlplane.starting", **describe(settings))
    registry = CollectorRegistry()
    program = ProgramMetrics(registry)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(
            _opened_store(settings, environ, registry, new_store)
        )
        program.is_enabled.set(store is not None)
        kube = KubeSettings(
            kubeconfig=settings.kube.kubeconfig,
            context=settings.kube.context,
            user_agent=_COMPONENT,
        )
        api = await stack.enter_async_context(await open_kube(kube, environ=environ))
        health = Health()
        HealthMetrics(health, registry)
        sink = await stack.enter_async_context(_traces(settings, program))
        server = Server(api, store, settings, registry, program, health, sink)
        http = settings.http
        port = await stack.enter_async_context(
            serve_metrics(registry, health, http.host, http.port)
        )
        _log.info("controlplane.metrics", port=port)
        await _until(stop, server.run())
        _log.info("controlplane.stopping")


class Server:
    """The program, given its connections, none of which it owns."""

    def __init__(
        self,
        api: KubeApi,
        store: ArtifactStore | None,
        settings: Settings,
        registry: CollectorRegistry,
        program: ProgramMetrics,
        health: Health,
        sink: Sink | None = None,
    ) -> None:
        self._api = api
        self._sink = sink
        self._store = store
        self._settings = settings
        self._registry = registry
        self._program = program
        self._identity = settings.program.identity or f"{socket.gethostname()}-{os.getpid()}"
        self._snapshot_metrics = SnapshotMetrics(registry, _now)
        self._health = health
        self._is_leader = False
        self.is_ready = False
        health.add("start", self._look_at_start)
        health.add("leadership", self._look_at_leadership)
        self.webhook_port: int | None = None

    async def run(self) -> None:
        """Serve sessions; lead whenever it is our turn; until cancelled."""
        sandbox_api = await self._discover()
        recorder = EventRecorder(self._api, component=_COMPONENT, instance=self._identity)
        sessions = SessionPath(
            self._api,
            sandbox_api,
            self._store,
            self._settings,
            self._registry,
            self._health,
            self._sink,
        )
        async with AsyncExitStack() as stack:
            recorder.start()
            stack.push_async_callback(recorder.stop)
            await stack.enter_async_context(sessions.running())
            self.webhook_port = sessions.port
            await sessions.wait_synced()
            self.is_ready = True
            _log.info("controlplane.ready", webhooks=sessions.port, identity=self._identity)
            await self._lead(sandbox_api, recorder)

    def _look_at_start(self) -> PartState:
        if self.is_ready:
            return PartState(Readiness.READY, "it is done")
        return PartState(Readiness.NOT_READY, "agent-sandbox, or the first lists, are waited for")

    def _look_at_leadership(self) -> PartState:
        leads = (
            "this replica leads" if self._is_leader else "standby: another replica leads, or may"
        )
        return PartState(Readiness.READY, leads)

    async def _discover(self) -> SandboxApi:
        """Which agent-sandbox there is; waits for it, and for its templates."""
        while True:
            error = "SandboxTemplates are not served by this cluster; install its extensions"
            try:
                found = await discover_sandboxes(self._api)
                if found.templates is not None:
                    return found
            except ControlPlaneError as exc:
                error = str(exc)
            _log.warning("discovery.failed", error=error, retry_s=_RETRY_S)
            await asyncio.sleep(_RETRY_S)

    async def _lead(self, sandbox_api: SandboxApi, recorder: EventRecorder) -> None:
        leader = self._settings.leader
        election = LeaderElection(
            self._api,
            LeaseName(self._settings.program.namespace, leader.lease, self._identity),
            timing=LeaseTiming(leader.duration_s, leader.deadline_s, leader.retry_s),
        )
        while True:
            try:
                await election.lead(lambda: self._work(sandbox_api, recorder))
            except Exception:
                _log.exception("leader.work_failed", retry_s=_RETRY_S)
                await asyncio.sleep(_RETRY_S)

    async def _work(self, sandbox_api: SandboxApi, recorder: EventRecorder) -> None:
        """What only the leader runs."""
        self._set_leader(True)
        try:
            async with asyncio.TaskGroup() as group:
                if self._store is not None:
                    controller = self._snapshot_controller(self._store, sandbox_api, recorder)
                    group.create_task(controller.run(), name="snapshots")
                if self._settings.templates.enabled and sandbox_api.templates is not None:
                    group.create_task(
                        self._template_controller(sandbox_api, recorder).run(), name="templates"
                    )
                group.create_task(asyncio.Event().wait(), name="leading")
        finally:
            self._set_leader(False)

    def _set_leader(self, is_leader: bool) -> None:
        self._is_leader = is_leader
        self._program.is_leader.set(int(is_leader))

    def _snapshot_controller(
        self, store: ArtifactStore, sandbox_api: SandboxApi, recorder: EventRecorder
    ) -> SnapshotController:
        return SnapshotController(
            self._api,
            store,
            sandbox_api,
            self._snapshot_metrics,
            recorder=recorder,
            lease_namespace=self._settings.program.namespace,
            policy=policy_of(self._settings),
            sink=self._sink,
        )

    def _template_controller(
        self, sandbox_api: SandboxApi, recorder: EventRecorder
    ) -> CodeInterpreterController:
        assert sandbox_api.templates is not None
        namespace = self._settings.templates.router_namespace or self._settings.program.namespace

        async def announce(owner: CodeInterpreter, emit: Emit) -> None:
            about = reference(CODE_INTERPRETERS, owner)
            say = recorder.warning if emit.is_warning else recorder.normal
            say(about, emit.reason, emit.message)

        return CodeInterpreterController(
            self._api, sandbox_api.templates, PublicKey(self._api, namespace), announce, _now
        )


def policy_of(settings: Settings) -> Policy:
    """The snapshot controller's numbers."""
    chosen = settings.snapshots
    return Policy(
        build_s=chosen.build_s,
        node_grace_s=chosen.node_grace_s,
        retired_grace_s=chosen.retired_grace_s,
        deletion_grace_s=chosen.deletion_grace_s,
        retention_s=chosen.task_retention_s,
        build_annotation_prefixes=chosen.build_annotation_prefixes,
        is_traced=bool(settings.tracing.endpoint),
    )


@asynccontextmanager
async def _traces(settings: Settings, program: ProgramMetrics) -> AsyncIterator[Sink | None]:
    """Where spans go while inside, None without an endpoint. Raises: ConfigError."""
    if not settings.tracing.endpoint:
        yield None
        return

    def report(event: str, /, **details: str | int | float) -> None:
        if event == "trace.dropped":
            program.spans_dropped.labels(str(details["why"])).inc(float(details["spans"]))
        elif event == "trace.export.failed":
            _log.warning("trace.export.failed", **details)
        else:
            _log.info("trace.export.resumed", **details)

    try:
        exporter = Exporter(settings.tracing.endpoint, {"host.name": socket.gethostname()}, report)
    except TracingError as exc:
        raise ConfigError(f"making traces: {exc}") from exc
    async with exporter.running():
        yield exporter.offer


@asynccontextmanager
async def _opened_store(
    settings: Settings,
    environ: Mapping[str, str],
    registry: CollectorRegistry,
    new_store: StoreFactory = open_store,
) -> AsyncIterator[ArtifactStore | None]:
    """The store, closed in the end; None if none is configured, or not well: that is told."""
    try:
        found = new_store(environ, sqlite_path=settings.store.sqlite_path)
    except ConfigError as exc:
        _log.error("snapshots.off", error=str(exc), effect="sessions start cold, nothing is built")
        found = None
    else:
        if found is None:
            _log.warning(
                "snapshots.off",
                error="no artifact store is configured (REDIS_ADDR, VALKEY_ADDR, a file)",
                effect="sessions start cold, nothing is built",
            )
    if found is None:
        yield None
        return
    store = CountedStore(found, registry)
    try:
        yield store
    finally:
        await store.close()


async def _until(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Run the work until `stop` is set; its failure is raised."""
    job = asyncio.create_task(work, name="server")
    waiter = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({job, waiter}, return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            job.result()
    finally:
        for task in (job, waiter):
            task.cancel()
        await asyncio.gather(job, waiter, return_exceptions=True)


def _now() -> datetime:
    return datetime.now(UTC)
