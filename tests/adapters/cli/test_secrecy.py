"""The daemon's own memory is kept to itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PR_GET_DUMPABLE = 3
SCRIPT = f"""
import ctypes, resource, sys
from agentd.cli.secrecy import keep_memory_private
libc = ctypes.CDLL(None)
before = libc.prctl({PR_GET_DUMPABLE}, 0, 0, 0, 0)
keep_memory_private()
after = libc.prctl({PR_GET_DUMPABLE}, 0, 0, 0, 0)
print(before, after, *resource.getrlimit(resource.RLIMIT_CORE), flush=True)
"""


def run(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    argv = [sys.executable, "-c", script]
    environ = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        argv, cwd=directory, env=environ, capture_output=True, text=True, timeout=50, check=False
    )


def test_it_can_neither_be_dumped_nor_looked_into(tmp_path: Path) -> None:
    done = run(SCRIPT, tmp_path)
    assert done.stdout.split() == ["1", "0", "1", "1"], done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_have_no_core_dump_at_all_is_content(tmp_path: Path) -> None:
    before = "import os, resource\nfrom agentd.cli import secrecy\n"
    before += (
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nos.setresuid(65534, 65534, 65534)\n"
    )
    done = run(before + "secrecy.keep_memory_private()\nprint('well')", tmp_path)
    assert done.stdout == "well\n", done.stderr


@pytest.mark.skipif(
    Path("/proc/sys/kernel/core_pattern").read_text().strip() != "core",
    reason="core dumps go elsewhere on this host",
)
def test_an_abort_leaves_no_core_where_it_would_have_left_one(tmp_path: Path) -> None:
    crash = "import os, resource\n{}\nos.abort()"
    allow = "resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)"
    if resource_is_unlimited():
        run(crash.format(allow), tmp_path)
        assert list(tmp_path.glob("core*")), "this host makes no core dumps: nothing is shown"
        for path in tmp_path.glob("core*"):
            path.unlink()
    run(crash.format(SCRIPT), tmp_path)
    assert list(tmp_path.iterdir()) == []


def resource_is_unlimited() -> bool:
    """Whether a child may raise its limit."""
    import resource

    return os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_CORE)[1] != 0
