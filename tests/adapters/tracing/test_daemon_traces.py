"""A daemon's starts and builds are in its clients' traces."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry import trace

from agentd.client import AsyncTransport, Transport, calls
from agentd.errors import ConfigError
from agentd.tracing import exporter
from tests.adapters.tracing.collector import OtlpReceiver, otlp_receiver
from tests.fakes.daemon import RunningDaemon, running_daemon

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{SPAN}-01"}


async def end_all(daemon: RunningDaemon) -> None:
    _, found = await daemon.call("GET", "/v1/sessions")
    for session in found["sessions"]:
        await daemon.call("DELETE", f"/v1/sessions/{session['id']}")


async def test_a_start_is_in_the_trace_of_its_request_with_its_stages(tmp_path: Path) -> None:
    async with otlp_receiver() as receiver:
        async with running_daemon(tmp_path, tracing={"endpoint": receiver.endpoint}) as daemon:
            await daemon.template()
            async with daemon.api.post(
                "http://agentd/v1/sessions", json={"template": "py"}, headers=HEADERS
            ) as reply:
                session = await reply.json()
            await end_all(daemon)
        check_start(receiver, session["id"])
        build = receiver.named("template.build")
        stages = {span.name for _, span in receiver.spans if span.parent_span_id == build.span_id}
        assert {"image", "boot", "warm", "verdict", "checkpoint", "seal"} <= stages


def check_start(receiver: OtlpReceiver, session_id: str) -> None:
    start = receiver.named("session.start")
    assert (start.trace_id.hex(), start.parent_span_id.hex()) == (TRACE, SPAN)
    said = {one.key: one.value.string_value for one in start.attributes}
    assert said["snapstart.session"] == session_id
    parts = [(who, one) for who, one in receiver.spans if one.parent_span_id == start.span_id]
    told = {(who, one.name) for who, one in parts}
    assert {("snapstart-agentd", "spawn"), ("snapstart-guest", "inject")} <= told
    assert {one.trace_id.hex() for _, one in parts} == {TRACE}


async def test_sessions_do_without_a_collector(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{sock.getsockname()[1]}"  # bound, nobody listens
        async with running_daemon(tmp_path, tracing={"endpoint": dead}) as daemon:
            await daemon.template()
            await daemon.session()
            while True:
                async with daemon.api.get("http://agentd/metrics") as reply:
                    text = await reply.text()
                if 'snapstart_trace_spans_dropped_total{why="unsent"}' in text:
                    break
                await asyncio.sleep(0.05)
            await end_all(daemon)


@pytest.mark.parametrize(
    ("modules", "package"),
    [
        ("agentd.daemon, agentd.node.agent, agentd.client, agentd.client.aio", "opentelemetry"),
        # The Redis client has hooks of its own for whoever has installed OpenTelemetry.
        ("controlplane.server", "opentelemetry.proto"),
    ],
    ids=["agentd", "controlplane"],
)
async def test_without_an_endpoint_nothing_of_it_is_imported(modules: str, package: str) -> None:
    """In a process of its own: this one has imported it for its collector."""
    program = (
        f"import {modules}, sys; "
        f"sys.exit(any(f'{{name}}.'.startswith('{package}.') for name in sys.modules))"
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=False)
    assert done.returncode == 0


async def test_an_endpoint_without_the_packages_is_refused_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="otel"):
        async with running_daemon(tmp_path, tracing={"endpoint": "http://127.0.0.1:1"}):
            pass


# -- the client -----------------------------------------------------------------------------------


def active_span() -> trace.Span:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    return trace.NonRecordingSpan(trace.SpanContext(int(TRACE, 16), int(SPAN, 16), False, flags))


def test_the_client_hands_on_the_span_that_is_active() -> None:
    with trace.use_span(active_span()):
        assert calls.health().headers()["traceparent"] == HEADERS["traceparent"]
    assert "traceparent" not in calls.health().headers()


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
async def test_a_session_of_the_client_is_in_its_callers_trace(
    tmp_path: Path, is_async: bool
) -> None:
    from agentd.wire.api import CreateSession

    async with otlp_receiver() as receiver:
        async with running_daemon(tmp_path, tracing={"endpoint": receiver.endpoint}) as daemon:
            await daemon.template()
            call = calls.create_session(CreateSession(template="py"))
            path = str(daemon.settings.socket)
            with trace.use_span(active_span()):
                if is_async:
                    client = AsyncTransport(path)
                    await client.send(call)
                    await client.close()
                else:
                    await asyncio.to_thread(_send, path, call)
            await end_all(daemon)
        assert receiver.named("session.start").trace_id.hex() == TRACE


def _send(path: str, call: calls.Call[object]) -> None:
    client = Transport(path)
    client.send(call)
    client.close()
