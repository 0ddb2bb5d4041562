"""The C tests of the core, built and run under the sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = sorted(path.stem for path in Path(__file__).parent.glob("test_*.c"))


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the compiled programs."""
    directory = tmp_path_factory.mktemp("native")
    command = ["make", "-s", "-C", str(ROOT / "native"), f"O={directory}", "programs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", PROGRAMS)
def test_c_program_succeeds_under_the_sanitizers(build: Path, program: str) -> None:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}
    done = subprocess.run(
        [build / program], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
