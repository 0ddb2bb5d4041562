"""A run of the tests that is ended takes down what its fixtures made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROBE = """
import os, signal, time
from pathlib import Path
import pytest
from tests import conftest

@pytest.fixture
def machine():
    yield
    Path(os.environ["PROBE_DOWN"]).touch()

def test_that_is_ended(machine):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
"""


def test_a_run_that_is_told_to_end_takes_its_machines_down(tmp_path: Path) -> None:
    probe, down = tmp_path / "test_probe.py", tmp_path / "down"
    probe.write_text(PROBE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ROOT, probe],
        cwd=ROOT, env={**os.environ, "PROBE_DOWN": str(down)}, capture_output=True, timeout=50,
        check=False,
    )  # fmt: skip
    assert done.returncode not in (0, -signal.SIGTERM), done.stdout.decode()
    assert down.exists(), done.stdout.decode()
