"""Copies of what each release wrote."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .table import FIXTURES

RELEASES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


@pytest.fixture(params=RELEASES)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Everything of one release, as if it lay there since; version control keeps no modes."""
    root = tmp_path / "kept"
    shutil.copytree(FIXTURES / request.param, root)
    for place, directories, names in os.walk(root):
        for name in directories:
            (Path(place) / name).chmod(0o700)
        for name in names:
            (Path(place) / name).chmod(0o600)
    return root
