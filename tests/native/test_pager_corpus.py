"""What was once worth keeping is given to every fuzz target, under the sanitizers."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.targets import Target, all_targets, build


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the compiled targets."""
    directory = tmp_path_factory.mktemp("fuzz")
    build(directory, with_fuzzer=False)
    return directory


@pytest.fixture
def scratch() -> Iterator[str]:
    """Journals are on tmpfs."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield directory


@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_every_kept_input_is_survived(programs: Path, scratch: str, target: Target) -> None:
    inputs = target.inputs()
    assert inputs, f"nothing is kept in {target.kept}"
    environment = {**os.environ, "TMPDIR": scratch, "ASAN_OPTIONS": "detect_leaks=1"}
    argv = [target.program(programs), *inputs]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{done.stdout.splitlines()[-1:]}: {done.stderr[-4000:]}"
    assert done.stdout.split("\n")[:-1] == [str(path) for path in inputs]
