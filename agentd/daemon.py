"""Run the daemon: what starts in which order, how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog

from agentd import __version__, native
from agentd.engine.engine import Engine, Outside
from agentd.engine.home import make_private_dir, read_installation_id
from agentd.engine.tasks import Tasks
from agentd.engine.trace import Tracer, Tracers
from agentd.errors import ConfigError, ErrorCode
from agentd.health import Health
from agentd.http.health_api import make_status_app
from agentd.http.listening import listening, showing
from agentd.http.local_api import make_app
from agentd.http.observed import make_health, watch
from agentd.log import LogTracer
from agentd.log_setup import configure_logging
from agentd.metrics import Metrics
from agentd.monitors import MakeVmm, make_pager_watch, make_vmm
from agentd.reload import Load, Reloader
from agentd.sdnotify import Notifier
from agentd.settings import Settings, describe
from agentd.spans import SpanTracer
from agentd.store.copier import Copier
from agentd.store.templates import TemplateStore
from agentd.tracing import Exporter, TracingError
from agentd.vmm.vmm import Finishing
from agentd.wire.manifest import Machine

_RELOAD: Final = (signal.SIGHUP,)
_FACTS_OF: Final = Machine(memory_mib=256, vcpus=1)  # facts name a machine; the status needs none


@dataclass(frozen=True)
class Parts:
    """What a daemon is given.

    make_vmm: settings, installation id to the monitor. watchers: see every step, after the daemon's
    own. stop_on: signals that stop it; none in a test that stops it by itself. load: reads the
    settings again when `reload` is set, or one of the signals of reload_on comes.
    """

    settings: Settings
    environ: Mapping[str, str]
    make_vmm: MakeVmm
    copier: Copier
    watchers: Iterable[Tracer] = ()
    stop_on: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    load: Load | None = None
    reload_on: tuple[signal.Signals, ...] = ()
    reload: asyncio.Event = field(default_factory=asyncio.Event)


async def serve(parts: Parts) -> None:
    """Run until told to stop.

    Up: data directory, monitor, page server, journal, what a predecessor left, then the API's
    socket, then READY=1. Down: STOPPING=1, no new requests, those in progress, builds, and the
    sessions are left running for a successor.
    Raises: SnapStartError if it cannot start. Cancellation: as being told to stop.
    """
    settings = parts.settings
    configure_logging(settings.log.level, settings.log.format)
    log = structlog.get_logger()
    log.info("daemon.starting", version=__version__, pid=os.getpid(), settings=describe(settings))
    notifier = Notifier(parts.environ)
    metrics = Metrics()
    _have_threads()
    async with AsyncExitStack() as down:
        tracer = await down.enter_async_context(_traced(parts, metrics))
        down.enter_context(_heeding_signals(parts))
        outside = await down.enter_async_context(_opened(parts, tracer))
        facts = outside.vmm.facts(_FACTS_OF)
        pager = make_pager_watch(settings, facts.engine, tracer)
        tasks = Tasks(tracer)
        # Before machines are adopted: one whose memory nobody serves does not answer.
        if pager is not None:
            down.callback(pager.close)
            tasks.start("pager", pager.run(), eternal=True)
        down.push_async_callback(tasks.stop, settings.stop.requests_s)
        engine = await down.enter_async_context(_running(Engine(outside)))
        health = make_health(settings, engine, pager, facts.engine)
        watch(metrics, engine, pager, health)
        client = None if pager is None else pager.client
        app = make_app(engine, engine.settings, metrics, facts, health, client)
        await down.enter_async_context(listening(app, settings))
        if settings.http.port:
            await down.enter_async_context(showing(make_status_app(health, metrics), settings))
        if settings.node.enabled:
            agents = Tasks(tracer)
            down.push_async_callback(agents.stop, settings.stop.builds_s)
            agents.start("node", _work_for_cluster(parts, engine, tracer, health), eternal=True)
        _start_for_systemd(parts, engine, notifier, tracer, tasks)
        tracer.step("daemon.ready", socket=str(settings.socket))
        notifier.ready(f"listening on {settings.socket}")
        down.callback(engine.sessions.refuse)
        await parts.stop.wait()
        notifier.stopping()
        tracer.step("daemon.stopping")
    log.info("daemon.stopped")


@asynccontextmanager
async def _traced(parts: Parts, metrics: Metrics) -> AsyncIterator[Tracer]:
    """Who is told of each step: log, metrics, whoever `parts` names, a collector of traces."""
    watchers: list[Tracer] = [LogTracer(), metrics, *parts.watchers]
    if not parts.settings.tracing.endpoint:
        yield Tracers(watchers)
        return
    traces = _make_exporter(parts.settings, Tracers(tuple(watchers)))
    async with traces.running():
        yield Tracers([*watchers, SpanTracer(traces.offer)])


@asynccontextmanager
async def _opened(parts: Parts, tracer: Tracer) -> AsyncIterator[Outside]:
    """The data directory, which is this daemon's alone from here on, and the monitor."""
    settings = parts.settings
    make_private_dir(settings.data_dir, "paths.data_dir")
    installation_id = read_installation_id(settings.data_dir)
    async with AsyncExitStack() as down:
        # The store's lock is the daemon's.
        store = TemplateStore(settings.data_dir, owner=installation_id, copier=parts.copier)
        down.callback(store.close)
        vmm = parts.make_vmm(settings, installation_id)
        down.callback(vmm.close)
        if isinstance(vmm, Finishing):
            down.push_async_callback(vmm.finish)
        yield Outside(settings, vmm, store, tracer)


def _start_for_systemd(
    parts: Parts, engine: Engine, notifier: Notifier, tracer: Tracer, tasks: Tasks
) -> None:
    """What a service manager asks for: signs of life, settings read again."""
    if notifier.watchdog_s is not None:
        tasks.start("watchdog", _feed_watchdog(notifier, notifier.watchdog_s), eternal=True)
    if parts.load is not None:
        reloader = Reloader(parts.load, parts.settings, engine, notifier, tracer)
        tasks.start("reload", reloader.run(parts.reload), eternal=True)


def _have_threads() -> None:
    """Those of `asyncio.to_thread`, as many as it would start one by one; ended with the loop."""
    count = min(32, (os.cpu_count() or 1) + 4)
    asyncio.get_running_loop().set_default_executor(native.full_pool(count, "asyncio"))


@asynccontextmanager
async def _running(engine: Engine) -> AsyncIterator[Engine]:
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop()


@contextlib.contextmanager
def _heeding_signals(parts: Parts) -> Iterator[None]:
    """A signal sets `stop` or `reload`, also while the daemon still starts."""
    loop = asyncio.get_running_loop()
    events = dict.fromkeys(parts.stop_on, parts.stop)
    events |= dict.fromkeys(parts.reload_on, parts.reload)
    for number, event in events.items():
        loop.add_signal_handler(number, event.set)
    try:
        yield
    finally:
        for number in events:
            loop.remove_signal_handler(number)


def _make_exporter(settings: Settings, tracer: Tracer) -> Exporter:
    """Who sends spans. tracer: learns what becomes of them. Raises: ConfigError."""
    resource = {"host.name": socket.gethostname(), "service.version": __version__}
    try:
        return Exporter(settings.tracing.endpoint, resource, tracer.step)
    except TracingError as exc:
        raise ConfigError(ErrorCode.CONFIG_INVALID, f"making traces: {exc}") from exc


async def _feed_watchdog(notifier: Notifier, every_s: float) -> None:
    """A loop that no longer turns no longer gets here, which is the point."""
    while True:
        notifier.alive()
        await asyncio.sleep(every_s)


async def _work_for_cluster(parts: Parts, engine: Engine, tracer: Tracer, health: Health) -> None:
    """Imported only here: a daemon of one machine does not pay for a Kubernetes client."""
    from agentd.node.agent import run_agent

    await run_agent(parts.settings, engine, tracer, parts.environ, health)


def run(settings: Settings, environ: Mapping[str, str], load: Load) -> None:
    """The daemon of the command line, which reads its settings again at SIGHUP.

    Raises: SnapStartError.
    """
    import uvloop

    from agentd import native

    async def main() -> None:
        parts = Parts(settings, environ, make_vmm, native.copy_memory, load=load, reload_on=_RELOAD)
        await serve(parts)

    uvloop.run(main())
