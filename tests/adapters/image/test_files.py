"""Staging directories and their leftovers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.image.files import staging_dir

HOLD = """
import sys, time
from pathlib import Path
from agentd.image.files import staging_dir
with staging_dir(Path(sys.argv[1])) as path:
    (path / "half").write_text("half")
    print(path, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_builder_left_is_swept_and_a_live_one_is_spared(tmp_path: Path) -> None:
    builder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with builder:
        assert builder.stdout is not None
        theirs = Path(builder.stdout.readline().strip())
        with staging_dir(tmp_path) as mine:
            assert theirs.is_dir()
            assert mine != theirs
        os.kill(builder.pid, signal.SIGKILL)
    assert (theirs / "half").exists()
    with staging_dir(tmp_path):
        assert not theirs.exists()


def test_a_failure_inside_removes_the_directory(tmp_path: Path) -> None:
    def fail() -> None:
        with staging_dir(tmp_path) as path:
            (path / "deep").mkdir()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list((tmp_path / "staging").iterdir()) == []
