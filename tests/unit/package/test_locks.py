"""The pins fit what is asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCKS = sorted((ROOT / "deploy" / "locks").glob("*.txt"))
PIN = re.compile(r"^([\w.-]+)==([\w.+-]+)( ; .*)? \\$")

each_lock = pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)


def pins(lock: Path) -> dict[str, str]:
    found = (PIN.match(line) for line in lock.read_text().splitlines())
    return {row[1]: row[2] for row in found if row}


def check(root: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(root / "deploy" / "lock"), "--check"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def test_the_locks_fit_pyproject() -> None:
    done = check(ROOT)
    assert done.returncode == 0, done.stderr


def test_a_requirement_that_is_not_locked_is_told(tmp_path: Path) -> None:
    for name in ("deploy/lock", "pyproject.toml", *(f"deploy/locks/{lock.name}" for lock in LOCKS)):
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text((ROOT / name).read_text())
    assert check(tmp_path).returncode == 0
    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace('"aiohttp>=3.12"', '"aiohttp>=3.13"'))
    done = check(tmp_path)
    assert done.returncode == 1
    assert "deploy/locks/runtime.txt does not fit" in done.stderr
    assert "deploy/locks/dev.txt does not fit" in done.stderr


@each_lock
def test_each_line_of_a_lock_is_a_pin_or_a_hash_of_one(lock: Path) -> None:
    hashes = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")
    first, *lines = lock.read_text().splitlines()
    assert first.startswith("# ")
    assert [line for line in lines if not PIN.match(line) and not hashes.match(line)] == []


@each_lock
def test_all_locks_pin_the_same_version(lock: Path) -> None:
    mine, running = pins(lock), pins(ROOT / "deploy" / "locks" / "runtime.txt")
    assert running
    assert {name: mine[name] for name in mine.keys() & running} == {
        name: running[name] for name in mine.keys() & running
    }
