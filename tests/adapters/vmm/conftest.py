"""A program that can bear any arguments, as QEMU's stand-in among processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_SOURCE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"


@pytest.fixture(scope="session")
def idle_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sleeps for ever, whatever it is told."""
    directory = tmp_path_factory.mktemp("idle")
    source, program = directory / "idle.c", directory / "idle"
    source.write_text(_SOURCE)
    subprocess.run(["cc", "-O0", "-o", program, source], check=True)
    return program
