"""A real runtime in a process of its own, outside a VM, with all its paths in a directory."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.guest.fake_host import FakeHost
from tests.kube import ports

PROGRAM = Path(__file__).with_name("runtime_process.py")
ROOT = Path(__file__).parents[3]


class Runtime:
    """The process, its directory, a host connected to it."""

    def __init__(self, directory: Path, settings: dict[str, Any], env: dict[str, str]) -> None:
        self.directory = directory
        self.workspace = directory / "workspace"
        self.inject_socket = directory / "inject.sock"
        self.workspace.mkdir(exist_ok=True)
        members = {
            "is_gated": True,
            "workspace": str(self.workspace),
            "inject_socket": str(self.inject_socket),
            "session_file": str(directory / "session.json"),
            "file_roots": [str(directory / "home")],
            **settings,
        }
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(theirs.fileno()), json.dumps(members)],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{directory}", **env},
                stderr=subprocess.PIPE,
            )
        self.host = FakeHost(self.channel)
        self.host.hello()

    def wait(self, timeout_s: float = 20.0) -> int:
        return self.process.wait(timeout_s)

    def close(self) -> None:
        self.host.close()
        self.process.terminate()
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise

    def connect(self) -> socket.socket:
        """A connection to the inject socket."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(str(self.inject_socket))
        return sock


StartRuntime = Callable[..., Runtime]


@pytest.fixture
def start_runtime() -> Iterator[StartRuntime]:
    runtimes: list[Runtime] = []
    # Short: the path of a Unix socket has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="guest-"))

    def start(env: dict[str, str] | None = None, **settings: Any) -> Runtime:
        runtimes.append(Runtime(directory, settings, env or {}))
        return runtimes[-1]

    yield start
    for runtime in runtimes:
        runtime.close()
    shutil.rmtree(directory)


@pytest.fixture
def runtime(start_runtime: StartRuntime) -> Runtime:
    """A runtime that waits for its session."""
    return start_runtime()


@pytest.fixture
def host(start_runtime: StartRuntime) -> FakeHost:
    """The host of a runtime whose gate was never closed."""
    return start_runtime(is_gated=False).host


@pytest.fixture
def free_port() -> int:
    """A TCP port that nobody listens on."""
    return ports.choose(1)[0]
