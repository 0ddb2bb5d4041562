"""Every test leaves the process as it found it: no fd, no child, no temporary file."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

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

# As in agentd, before anybody imports grpc: a test that forks would have it open descriptors anew.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# A shell that runs us in the background has us ignore Ctrl-C, and so would all that we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A run that is told to end ends as by Ctrl-C: by itself it would leave machines, which are made to
# outlive whoever started them.
signal.signal(signal.SIGTERM, signal.default_int_handler)

# A shared machine stalls; what hypothesis would call slow says nothing of the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


_MOMENT_S = 20.0

# Without CONFIG_PROC_CHILDREN no test would ever be seen to leave a process behind.
assert Path(f"/proc/self/task/{os.getpid()}/children").exists()


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
    """Our descendants that still run or were never reaped."""
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        children = _children(waiting.pop()) - found
        found |= children
        waiting += children
    return found


def _children(pid: int) -> set[int]:
    """From proc(5): looking at the parent of every process of the host takes ten times longer."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        texts = [Path(f"/proc/{pid}/task/{task}/children").read_text() for task in tasks]
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {int(word) for text in texts for word in text.split()}


def started_s(pid: int) -> float:
    """When a process began, on the clock of CLOCK_BOOTTIME; 0 for one that is gone.

    proc(5) says that `children` may miss one while others end, so one that is new in it may be old.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    # Counted in whole ticks: one that began in the tick of the test's own beginning counts.
    return (int(fields[19]) + 1) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compare fds with children before and after each test.

    The core keeps idle inotify instances by design; they are closed first, so that one which it
    lost is seen.
    """
    fds, children, began_s = open_fds(), child_pids(), time.clock_gettime(time.CLOCK_BOOTTIME)
    yield
    native.close_idle_watches()
    if _left_open(fds):
        gc.collect()
    left = _left_for_good(fds)
    assert not left, f"left open: {left}"
    if request.node.get_closest_marker("restarts") is None:
        running = {pid for pid in child_pids() - children if started_s(pid) >= began_s}
        assert not running, f"left running: {running}"


def _left_for_good(before: dict[int, str]) -> dict[int, str]:
    """What a world in another thread has open just now is closed a moment later."""
    give_up_s = time.monotonic() + _MOMENT_S
    while (left := _left_open(before)) and time.monotonic() < give_up_s:
        time.sleep(0.02)
    return left


def _left_open(before: dict[int, str]) -> dict[int, str]:
    left = {fd: what for fd, what in open_fds().items() if before.get(fd) != what}
    return {fd: what for fd, what in left.items() if not _is_shared_machinery(what)}


def _is_shared_machinery(what: str) -> bool:
    """Caches that the standard library or a test runner opens once and keeps."""
    return (
        what.startswith(("/dev/null", "/dev/urandom"))
        or ".coverage" in what
        or ".hypothesis" in what
    )
