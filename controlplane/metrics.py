"""Show the program's health with its metrics over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controlplane.health import Health, Readiness, describe_states


class ProgramMetrics:
    """What is true of the program as a whole. registry: where the series are shown."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.is_enabled = Gauge(
            "agentcube_snapshot_enabled",
            "1 if an artifact store is configured; 0: sessions start cold, nothing is built.",
            registry=registry,
        )
        self.is_leader = Gauge(
            "agentcube_snapshot_controller_leader",
            "1 in the replica that runs the controllers.",
            registry=registry,
        )
        self.spans_dropped = Counter(
            "agentcube_snapstart_trace_spans_dropped",
            "Spans that no collector got, by why (full: the queue, unsent, rejected).",
            ("why",),
            registry=registry,
        )


class HealthMetrics(Collector):
    """What /readyz tells, as gauges."""

    def __init__(self, health: Health, registry: CollectorRegistry) -> None:
        self._health = health
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        family = GaugeMetricFamily(
            "agentcube_snapstart_part_ready",
            "1 for each part of the control plane that is ready, as /readyz tells.",
            labels=["part"],
        )
        for part, value in self._health.values().items():
            family.add_metric([part], value)
        yield family


@asynccontextmanager
async def serve_metrics(
    registry: CollectorRegistry, health: Health, host: str, port: int
) -> AsyncIterator[int]:
    """Serve /metrics, /healthz (the event loop turns) and /readyz (each part) until left.

    Args: host: empty for all addresses. port: 0 takes a free one. Yields: the port.
    """

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def alive(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        worst, said = describe_states(health.states())
        return web.json_response(said, status=503 if worst is Readiness.NOT_READY else 200)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", alive)
    app.router.add_get("/readyz", ready)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host or None, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
