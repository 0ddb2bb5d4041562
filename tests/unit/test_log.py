"""Which steps are written at which level."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import structlog

from agentd.log import LogTracer
from agentd.log_setup import configure_logging


@pytest.fixture(autouse=True)
def _own_configuration() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def written(level: str, tracer: LogTracer) -> str:
    stream = io.StringIO()
    configure_logging(level, "text", stream)
    tracer.step("machine.running", vm="vm-1")
    tracer.step("session.ready", session="vm-1")
    tracer.step("session.failed", session="vm-2")
    return stream.getvalue()


def test_a_level_that_changes_changes_what_is_written() -> None:
    tracer = LogTracer()
    for _ in range(2):
        assert [line.split()[2] for line in written("info", tracer).splitlines()] == [
            "event='session.ready'",
            "event='session.failed'",
        ]
        assert "machine.running" in written("debug", tracer)
        assert "session.ready" not in written("warning", tracer)
        assert "session.failed" in written("warning", tracer)
