"""A page server under the sanitizers, with somebody who means it ill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .pager_process import PagerProcess, build_pager
from .raw_monitor import RawMonitor
from .unharmed import unharmed

_SOON_S = 3.0


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("userfaultfds that a guest's memory needs are root's")


@pytest.fixture(scope="session")
def program() -> Path:
    """The page server; kept between runs."""
    return build_pager()


@pytest.fixture
def pager(program: Path) -> Iterator[PagerProcess]:
    """One that must be unharmed at the end."""
    with unharmed(program) as pager:
        yield pager


@pytest.fixture
def hasty_pager(program: Path) -> Iterator[PagerProcess]:
    """The same, which waits a few seconds for what a client owes it."""
    with unharmed(program, hand_over_s=_SOON_S) as pager:
        yield pager


@pytest.fixture
def monitor() -> Iterator[RawMonitor]:
    """The malicious one."""
    with RawMonitor() as monitor:
        yield monitor
