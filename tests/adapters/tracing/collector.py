"""A receiver of OTLP by HTTP, which decodes what it gets with OpenTelemetry's own classes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpReceiver:
    """What came, by service. status, rejects, delay_s: how it answers."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self.resources: list[dict[str, str]] = []
        self.requests = 0
        self.status = 200
        self.rejects = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.endpoint = ""

    async def post(self, request: web.Request) -> web.Response:
        self.requests += 1
        await self.goes_on.wait()
        if self.status != 200:
            return web.Response(status=self.status)
        assert request.content_type == "application/x-protobuf"
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for group in sent.resource_spans:
            said = {one.key: one.value.string_value for one in group.resource.attributes}
            self.resources.append(said)
            for scope in group.scope_spans:
                self.spans += [(said["service.name"], span) for span in scope.spans]
        reply = ExportTraceServiceResponse()
        reply.partial_success.rejected_spans = self.rejects
        return web.Response(body=reply.SerializeToString(), content_type="application/x-protobuf")

    def names(self) -> list[str]:
        return [span.name for _, span in self.spans]

    def named(self, name: str) -> Span:
        (found,) = [span for _, span in self.spans if span.name == name]
        return found


@asynccontextmanager
async def otlp_receiver() -> AsyncIterator[OtlpReceiver]:
    """One that listens on a port of its own."""
    receiver = OtlpReceiver()
    app = web.Application()
    app.router.add_post("/v1/traces", receiver.post)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        receiver.goes_on.set()
        await runner.cleanup()
