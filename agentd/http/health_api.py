"""Say whether the daemon lives, whether it is ready, and what it counted."""

from __future__ import annotations

from aiohttp import web

from agentd import __version__
from agentd.health import Health
from agentd.http.codec import reply
from agentd.http.routes import Route
from agentd.metrics import CONTENT_TYPE, Metrics
from agentd.wire import api


class HealthApi:
    """Handlers without secrets and without effects, so that they may be served by TCP as well."""

    def __init__(self, health: Health, metrics: Metrics) -> None:
        self._health = health
        self._metrics = metrics

    def routes(self) -> list[Route]:
        """What is served here."""
        return [
            Route("GET", "/healthz", "Does its event loop turn", self.alive, None, api.Health),
            Route("GET", "/readyz", "Can it do its work", self.ready, None, api.Readiness),
            Route("GET", "/metrics", "Prometheus text", self.metrics, None, bytes),
        ]

    async def alive(self, request: web.Request) -> web.StreamResponse:
        """That this runs is the answer; nobody else is asked."""
        return reply(200, api.Health(status="ok", version=__version__))

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """Every part; 503 if one is not ready."""
        states = self._health.states()
        is_ready = all(state.is_ready for state in states.values())
        parts = {
            name: api.Part(ready=state.is_ready, detail=state.detail)
            for name, state in states.items()
        }
        said = api.Readiness(status="ready" if is_ready else "not_ready", parts=parts)
        return reply(200 if is_ready else 503, said)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Prometheus text."""
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def make_status_app(health: Health, metrics: Metrics) -> web.Application:
    """These paths alone, for kubelets and Prometheus; whoever runs it owns its sockets."""
    app = web.Application()
    for route in HealthApi(health, metrics).routes():
        app.router.add_route(route.method, route.path, route.handle)
    return app
