"""The C tests of the core and the page server, built and run under the sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PROGRAMS = sorted(path.stem for path in HERE.glob("test_*.c"))
PROGRAMS += sorted(f"pager-{path.stem}" for path in (HERE / "pager").glob("test_*.c"))


# What threads of several kinds work on.
THREADED = ["pager-test_loop"]


def make(directory: Path, *words: str) -> None:
    """Build with the Makefile of the C code."""
    command = ["make", "-s", "-C", str(ROOT / "native"), f"O={directory}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the compiled programs."""
    directory = tmp_path_factory.mktemp("native")
    make(directory, "programs")
    return directory


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", PROGRAMS)
def test_c_program_succeeds_under_the_sanitizers(build: Path, program: str) -> None:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}
    done = subprocess.run(
        [build / program], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", THREADED)
def test_c_program_succeeds_under_the_thread_sanitizer(tmp_path: Path, program: str) -> None:
    make(tmp_path, "SANITIZE=thread", str(tmp_path / program))
    done = subprocess.run([tmp_path / program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
