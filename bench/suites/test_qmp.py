"""What does a question to a running QEMU cost?"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from agentd.vmm.qmp import QmpClient
from bench.suites.series import Series

_PATIENCE_S = 20.0


@pytest.fixture
def qmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The monitor of a QEMU that has no machine to run."""
    path = tmp_path_factory.mktemp("q") / "s"
    argv = ["qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none"]
    argv += ["-qmp", f"unix:{path},server=on,wait=off"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
        try:
            _await(path)
            yield path
        finally:
            process.kill()


def _await(path: Path) -> None:
    give_up_s = time.monotonic() + _PATIENCE_S
    while not path.exists():
        if time.monotonic() > give_up_s:
            raise TimeoutError("starting QEMU without a machine: it made no monitor")
        time.sleep(0.01)


@pytest.mark.budget(quick_s=2, quick=500, full=3000)
def test_a_question_to_qemu(series: Series, qmp: Path) -> None:
    """qmp.ask: from writing query-status to reading its answer, on an open connection.

    qmp.connect: from connect(2) to the end of the negotiation. QEMU is a real one without a
    machine, whose main loop does nothing else.
    """
    series.describe("qmp.ask", machine="qemu", unit="us")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        client = QmpClient(qmp)
        runner.run(client.__aenter__())
        series.rounds(lambda: runner.run(client.execute("query-status")))
        runner.run(client.__aexit__(None, None, None))


@pytest.mark.budget(quick_s=2, quick=200, full=2000)
def test_a_connection_to_qemu(series: Series, qmp: Path) -> None:
    """From connect(2) to the end of the negotiation, then closed."""
    series.describe("qmp.connect", machine="qemu", unit="us")

    async def connect() -> None:
        async with QmpClient(qmp):
            pass

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        series.rounds(lambda: runner.run(connect()))
