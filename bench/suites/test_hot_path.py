"""What do steps cost that every fork takes, and that wait for nothing?"""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import structlog
from pytest_benchmark.fixture import BenchmarkFixture

from agentd.engine.usage import available_memory_bytes
from agentd.log import LogTracer
from agentd.log_setup import configure_logging


@pytest.fixture
def log() -> Iterator[LogTracer]:
    """As a daemon's that tells what an operator reads."""
    configure_logging("info", "json", io.StringIO())
    yield LogTracer()
    structlog.reset_defaults()


def test_admission_asks_for_the_memory_of_the_host(benchmark: BenchmarkFixture) -> None:
    """From the question to the answer, in bytes; once for each fork."""
    assert benchmark(available_memory_bytes) > 0


def test_a_step_that_no_log_wants(benchmark: BenchmarkFixture, log: LogTracer) -> None:
    """From the report of a step to its return; seven times in the life of a fork."""
    benchmark(log.step, "machine.running", vm="vm-1", pid=1)
