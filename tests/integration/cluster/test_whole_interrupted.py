"""Whoever stops the demonstration finds nothing of it afterwards."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from agentd.cli.root import EXIT_INTERRUPTED
from agentd.vmm.qemu_argv import MARKER_PREFIX
from bench.cluster.leaks import Marks, child_pids, find_leaks, processes_of

pytestmark = [pytest.mark.cluster, pytest.mark.vm, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[3]


def read_until(stream: IO[str], text: str) -> str:
    """What was said up to the line with a text."""
    said = ""
    for line in stream:
        said += line
        if text in line:
            return said
    raise AssertionError(f"it never said {text!r}, but:\n{said}")


def machine_marks(directory: Path) -> tuple[str, ...]:
    """By what the machines of its nodes are known."""
    ids = [file.read_text().strip() for file in directory.glob("*/data/installation-id")]
    return tuple(f"guest={MARKER_PREFIX}/{one}/" for one in ids)


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGTERM, "starting Redis", id="told to stop while it starts"),
        pytest.param(signal.SIGINT, "(2 creating of 2)", id="Ctrl-C while machines are warmed"),
    ],
)
def test_nothing_is_left_of_a_demonstration_that_is(
    number: signal.Signals, moment: str, may_make_networks: None
) -> None:
    argv, known = [sys.executable, "-m", "bench.demo_cluster", "--json"], child_pids()
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        said = read_until(demo.stderr, moment)
        directory = Path(re.findall(r"/\S*/ss-[0-9a-f]+", said)[0])
        tag = directory.name.removeprefix("ss-")
        marks = Marks(directory, tag, machine_marks(directory), known)
        assert processes_of(str(directory))
        demo.send_signal(number)
        output, rest = demo.communicate(timeout=120)
    assert demo.returncode == EXIT_INTERRUPTED, rest
    assert json.loads(output.splitlines()[-1])["error"]["message"] == "interrupted"
    leaks = find_leaks(marks)
    assert leaks.count == 0, leaks
