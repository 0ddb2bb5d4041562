"""Get promtool, Prometheus' own checker of rules, out of Debian's package once."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

_HOME = Path(__file__).parents[3] / "build" / "promtool"
_PROGRAM = "usr/bin/promtool"
_DOWNLOAD_S = 240


@cache
def find_promtool() -> str:
    """The program; the test is skipped, with APT's words, where it cannot be had."""
    found = shutil.which("promtool")
    if found is not None:
        return found
    _HOME.mkdir(parents=True, exist_ok=True)
    with (_HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (_HOME / "root" / _PROGRAM).exists():
            _fetch()
    return str(_HOME / "root" / _PROGRAM)


def _fetch() -> None:
    half = _HOME / "half"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    _run(["apt-get", "-qq", "download", "prometheus"], half)
    (package,) = half.glob("*.deb")
    _run(["dpkg-deb", "-x", package.name, "root"], half)
    (half / "root").rename(_HOME / "root")
    shutil.rmtree(half)


def _run(argv: list[str], where: Path) -> None:
    try:
        done = subprocess.run(
            argv, cwd=where, capture_output=True, text=True, timeout=_DOWNLOAD_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        pytest.skip(f"promtool cannot be had: {exc}")
    if done.returncode != 0:
        pytest.skip(f"promtool cannot be had: {argv[0]} said {done.stderr.strip()!r}")


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    """Run it."""
    argv = [find_promtool(), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
