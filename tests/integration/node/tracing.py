"""Kill a process at its Nth system call of some kind, with strace(1)."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

# Calls that make something: a directory or group, a socket. The first ppoll comes when the process
# is there; the others while the machine loads, resumes, takes on its identity.
CREATING = ("mkdir", "bind", "ppoll")


@contextmanager
def killed_at(pid: int, call: str, number: int, log: Path, *more: str) -> Iterator[None]:
    """Within the block, `pid` dies by SIGKILL as one of its threads enters its Nth such call.

    Programs it starts are let go at their execve. Skips where strace is missing or not permitted.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    argv = [strace, "-f", "-p", str(pid), "-o", str(log), "--detach-on=execve", *more]
    argv += ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
    tracer = subprocess.Popen(argv, stderr=subprocess.PIPE)
    try:
        _await_attached(pid, tracer)
        yield
    finally:
        # The kernel lets go of what a dead tracer traced; asked politely, it can wait for ever.
        tracer.kill()
        tracer.wait(timeout=30)
        assert tracer.stderr is not None
        tracer.stderr.close()


def _await_attached(pid: int, tracer: subprocess.Popen[bytes]) -> None:
    """strace has every thread of the process."""
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        if tracer.poll() is not None:
            pytest.skip("strace may not trace here")
        threads = psutil.Process(pid).threads()
        if all(_tracer_of(pid, thread.id) == tracer.pid for thread in threads):
            return
        time.sleep(0.01)
    raise TimeoutError(f"strace did not attach to {pid}")


def _tracer_of(pid: int, thread: int) -> int:
    status = Path(f"/proc/{pid}/task/{thread}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("TracerPid:"))
    return int(line.split()[1])
