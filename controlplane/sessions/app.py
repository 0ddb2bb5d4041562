"""Serve the webhooks with the restore intent endpoint over TLS."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from agentd.tracing import enter
from controlplane.sessions.endpoint import IntentEndpoint, refusal
from controlplane.sessions.metrics import BadReview, SessionMetrics
from controlplane.sessions.mutate import SandboxMutator
from controlplane.sessions.review import allow
from controlplane.sessions.validate import ObjectValidator

MUTATE_PATH: Final = "/admission/sandboxes"
VALIDATE_PATH: Final = "/admission/objects"
INTENT_PATH: Final = "/v1/restore-intent"

# An API server takes objects of 3 MiB; an update carries two.
_BODY_MAX: Final = 8 * 1024 * 1024
_STOP_S: Final = 5.0
_JSON: Final = "application/json"


@dataclass(frozen=True)
class WebhookParts:
    """What is served. intents: None leaves the HTTP endpoint out."""

    mutator: SandboxMutator
    validator: ObjectValidator
    metrics: SessionMetrics
    intents: IntentEndpoint | None = None


def make_webhook_app(parts: WebhookParts) -> web.Application:
    """The application: admission, restore intents, a health check."""
    handlers = _Handlers(parts)
    app = web.Application(client_max_size=_BODY_MAX, middlewares=[_join_trace])
    app.router.add_post(MUTATE_PATH, handlers.mutate)
    app.router.add_post(VALIDATE_PATH, handlers.validate)
    app.router.add_get("/healthz", handlers.health)
    if parts.intents is not None:
        app.router.add_post(INTENT_PATH, _IntentHandler(parts.intents).post)
    return app


@web.middleware
async def _join_trace(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """An API server that traces names its span."""
    enter(request.headers.get("traceparent", ""))
    return await handler(request)


class _Handlers:
    def __init__(self, parts: WebhookParts) -> None:
        self._parts = parts

    async def mutate(self, request: web.Request) -> web.Response:
        body = await self._review(request)
        return _answer(allow("") if body is None else await self._parts.mutator.answer(body))

    async def validate(self, request: web.Request) -> web.Response:
        body = await self._review(request)
        return _answer(allow("") if body is None else self._parts.validator.answer(body))

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _review(self, request: web.Request) -> bytes | None:
        """The body, None if it is larger than any the API server sends."""
        try:
            return await request.read()
        except web.HTTPRequestEntityTooLarge:
            self._parts.metrics.bad_review(BadReview.TOO_LARGE)
            return None


class _IntentHandler:
    def __init__(self, intents: IntentEndpoint) -> None:
        self._intents = intents

    async def post(self, request: web.Request) -> web.Response:
        refused = await self._intents.check(request.headers)
        if refused is not None:
            return _answer(refusal(refused[1]), refused[0])
        try:
            status, body = await self._intents.answer(await request.read())
        except web.HTTPRequestEntityTooLarge:
            return _answer(refusal(f"send at most {_BODY_MAX} bytes"), 413)
        return _answer(body, status)


def _answer(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type=_JSON)


@asynccontextmanager
async def serve_webhooks(
    app: web.Application, context: ssl.SSLContext, port: int, host: str | None = None
) -> AsyncIterator[int]:
    """Serve until left, then let running requests end for 5 seconds.

    Args: context: of a `ServingContext`, which may load newer certificates while this runs.
    port: 0 takes a free one. host: None for all addresses.
    Yields: the port.
    Cancellation: closes the socket with all connections.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=context)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
