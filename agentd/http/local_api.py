"""Put the local API together (docs/local-api.md)."""

from __future__ import annotations

from functools import cache

from aiohttp import web

from agentd import __version__
from agentd.engine.engine import Engine
from agentd.health import Health
from agentd.http.codec import JSON, join_trace, translate_errors
from agentd.http.health_api import HealthApi
from agentd.http.node_api import NodeApi
from agentd.http.openapi import describe_api
from agentd.http.routes import Handle, Route
from agentd.http.sessions_api import SessionsApi
from agentd.metrics import Metrics
from agentd.pager.client import PagerClient
from agentd.settings import LiveSettings
from agentd.wire.manifest import VmmFacts


def make_app(
    engine: Engine,
    settings: LiveSettings,
    metrics: Metrics,
    facts: VmmFacts,
    health: Health,
    pager: PagerClient | None = None,
) -> web.Application:
    """The application; whoever runs it owns its sockets."""
    app = web.Application(
        middlewares=[join_trace, translate_errors], client_max_size=settings.api.max_body_bytes
    )
    routes = [
        *HealthApi(health, metrics).routes(),
        *NodeApi(engine, settings, facts, pager).routes(),
        *SessionsApi(engine, settings).routes(),
    ]
    for route in routes:
        app.router.add_route(route.method, route.path, route.handle)
    app.router.add_route("GET", "/openapi.json", _document_handler(routes))
    return app


def _document_handler(routes: list[Route]) -> Handle:
    @cache
    def document() -> bytes:
        return describe_api(routes, __version__)

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=document(), content_type=JSON)

    return handle
