"""A program's words are kept; when we are ended it is ended, with its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from bench.compare.process import last_words, run_to_log

ROOT = Path(__file__).parents[4]


def test_its_status_is_returned_and_its_words_are_added(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "words.log"
    for word in ("one", "two"):
        argv = ["sh", "-c", f"echo $GREETING {word}; echo oops >&2; exit 3"]
        assert run_to_log(argv, cwd=tmp_path, env={"GREETING": "hello"}, log=log) == 3
    assert last_words(log) == "hello one\noops\nhello two\noops"


# A child in the same group that does not end by itself.
STUBBORN = "trap '' INT; echo $$ > pid; sleep 600 & echo $! > child; wait"
RUNS = """
import sys
from pathlib import Path
from bench.compare import process
process.PATIENCE_S = 0.2
process.run_to_log(["sh", "-c", sys.argv[1]], cwd=Path(sys.argv[2]), env={}, log=Path("log"))
"""


def test_interrupted_it_leaves_no_process(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", RUNS, STUBBORN, str(tmp_path)]
    with subprocess.Popen(argv, cwd=tmp_path, env=env, stderr=subprocess.DEVNULL) as ours:
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text().strip():
            assert ours.poll() is None
            time.sleep(0.01)
        left = [psutil.Process(int((tmp_path / name).read_text())) for name in ("pid", "child")]
        ours.send_signal(signal.SIGINT)
    assert psutil.wait_procs(left, timeout=10)[1] == []
