"""A Debian archive of our own and a guest runtime, for tests of the whole builder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agentd.image import ImageSpec
from tests.adapters.image.debian_repo import DebianRepo, guest_packages


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DebianRepo:
    if shutil.which("apt-get") is None:
        pytest.skip("APT is not installed")
    made = DebianRepo(tmp_path / "archive", guest_packages())
    made.update()
    monkeypatch.setenv("APT_CONFIG", str(made.config))
    return made


@pytest.fixture
def spec(tmp_path: Path) -> ImageSpec:
    runtime = tmp_path / "guest"
    runtime.mkdir()
    (runtime / "__main__.py").write_text("def main() -> None: ...\n")
    return ImageSpec(runtime_dir=runtime)
