"""A fake daemon for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.local_api import FakeLocalApi


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeLocalApi]:
    """A daemon with one template and one session."""
    with FakeLocalApi(tmp_path / "agentd.sock") as running:
        running.add_template()
        running.add_session()
        yield running
