"""Every test leaves the process as it found it: no fd, no child, no temporary file."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import settings

from agentd import native
from tests.kube.fixtures import (  # noqa: F401
    api_cluster,
    cluster,
    clusters,
    kube_assets,
    pytest_collection_modifyitems,
    redis_server,
    sandbox_cluster,
    valkey_server,
)

# A shared machine stalls; what hypothesis would call slow says nothing of the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


def open_fds() -> dict[int, str]:
    """What this process holds open."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return found


def child_pids() -> set[int]:
    """Our children that still run or were never reaped."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare fds with children before and after each test.

    The core keeps idle inotify instances by design; they are closed first, so that one which it
    lost is seen.
    """
    fds, children = open_fds(), child_pids()
    yield
    gc.collect()
    native.close_idle_watches()
    left = {fd: what for fd, what in open_fds().items() if fds.get(fd) != what}
    left = {fd: what for fd, what in left.items() if not _is_shared_machinery(what)}
    assert not left, f"left open: {left}"
    if request.node.get_closest_marker("restarts") is None:
        assert not child_pids() - children, f"left running: {child_pids() - children}"


def _is_shared_machinery(what: str) -> bool:
    """Caches that the standard library or a test runner opens once and keeps."""
    return (
        what.startswith(("/dev/null", "/dev/urandom"))
        or ".coverage" in what
        or ".hypothesis" in what
    )
