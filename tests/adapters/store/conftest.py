"""Data directories on disk and in memory; both copiers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from agentd.store.copier import Copier
from tests.adapters.store.support import reference_copy


@pytest.fixture(params=["disk", "tmpfs"])
def data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where a store may live; does not exist yet."""
    if request.param == "disk":
        yield tmp_path / "data"
        return
    path = Path(tempfile.mkdtemp(prefix="snapstart-test-", dir="/dev/shm"))
    yield path / "data"
    shutil.rmtree(path)


@pytest.fixture(params=["reference", "native"])
def copier(request: pytest.FixtureRequest) -> Copier:
    """What moves memory."""
    if request.param == "reference":
        return reference_copy
    native = pytest.importorskip("agentd.native", reason="the native core is not built")
    return cast("Copier", native.copy_memory)
