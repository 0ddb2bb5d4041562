"""Real profilers on a real process, where they are installed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from agentd.errors import ConfigError, PeerError
from bench.profile.recorder import Recorder, find_tool

BUSY = """
import time
def spin():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        pass
print(flush=True)
spin()
"""


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing but work; it has begun."""
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def require(tool: str) -> None:
    try:
        find_tool(tool)
    except ConfigError as exc:
        pytest.skip(exc.message)


@pytest.mark.parametrize("tool", ["py-spy", "perf"])
def test_a_running_process_becomes_a_graph_and_runs_on(
    tool: str, busy: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    require(tool)
    graph = tmp_path / "graph.svg"
    with Recorder(tool, graph).attached(busy.pid, "busy"):
        time.sleep(2.0)
    assert ElementTree.parse(graph).getroot().tag.endswith("svg")
    text = graph.read_text()
    assert "samples" in text
    assert tool == "perf" or "spin" in text
    assert busy.poll() is None


@pytest.mark.parametrize("tool", ["py-spy", "perf"])
def test_a_process_that_is_not_there_is_no_empty_graph(tool: str, tmp_path: Path) -> None:
    require(tool)
    gone = subprocess.Popen(["true"])
    gone.wait()
    with (
        pytest.raises(PeerError, match=f"profiling with {tool}"),
        Recorder(tool, tmp_path / "graph.svg").attached(gone.pid, "gone"),
    ):
        time.sleep(0.5)


def test_a_command_that_fails_is_said_to(tmp_path: Path) -> None:
    require("perf")
    with pytest.raises(PeerError, match="ended with status 3"):
        Recorder("perf", tmp_path / "graph.svg").command([sys.executable, "-c", "exit(3)"])
