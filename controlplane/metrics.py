"""Show the program's health with its metrics over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest


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


@asynccontextmanager
async def serve_metrics(
    registry: CollectorRegistry, is_ready: Callable[[], bool], host: str, port: int
) -> AsyncIterator[int]:
    """Serve /metrics, /healthz (the event loop turns) and /readyz until left.

    Args: host: empty for all addresses. port: 0 takes a free one. Yields: the port.
    """

    async def metrics(_: web.Request) -> web.Response:
        body = generate_latest(registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        found = is_ready()
        return web.Response(text="ok\n" if found else "starting\n", status=200 if found else 503)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", health)
    app.router.add_get("/readyz", ready)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host or None, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
