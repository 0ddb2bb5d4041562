"""Compile the stand-in VMM once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters.native.standin import Standin, compile_standin


@pytest.fixture(scope="session")
def standin_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the compiled stand-in."""
    return compile_standin(tmp_path_factory.mktemp("standin"))


@pytest.fixture
def standin(standin_program: Path, tmp_path: Path) -> Standin:
    """A stand-in of this test's own."""
    return Standin(standin_program, tmp_path)
