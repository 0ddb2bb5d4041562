"""The C host against the real guest runtime, outside a VM."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd import native
from agentd.native import InjectStatus
from tests.adapters.guest.conftest import Runtime

LONG_S = 20.0
PREPARE = json.dumps({"type": "PREPARE", "task_id": "t-1", "context": "{}", "env_overrides": {}})


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    """A gated runtime that records its effects, to which another host spoke before."""
    directory = Path(tempfile.mkdtemp(prefix="native-"))
    runtime = Runtime(directory, {"record_effects": True}, {})
    yield runtime
    runtime.close()
    shutil.rmtree(directory)


def inject(target: native.InjectTarget) -> native.InjectResult:
    """Inject into one guest."""
    [result] = native.inject(
        [target],
        prepare_deadline_ns=native.deadline_after(LONG_S),
        commit_deadline_ns=native.deadline_after(LONG_S),
    )
    return result


def clock_told(runtime: Runtime) -> int:
    """The wall clock that the runtime was told to set, nanoseconds."""
    lines = (runtime.directory / "effects").read_text().splitlines()
    [told] = [line.split()[1] for line in lines if line.startswith("set_clock ")]
    return 0 if told == "None" else int(told)


def test_real_guest_starts_over_its_channel(runtime: Runtime) -> None:
    target = native.InjectTarget(
        runtime.channel.fileno(), PREPARE.encode(), epoch=os.urandom(16), has_clock=True
    )
    result = inject(target)
    assert result.status is InjectStatus.STARTED, result
    assert clock_told(runtime) > 1_600_000_000_000_000_000


def test_real_guest_starts_over_its_socket(runtime: Runtime) -> None:
    fd = native.wait_ready(str(runtime.inject_socket), deadline_ns=native.deadline_after(LONG_S))
    with socket.socket(fileno=fd):
        result = inject(native.InjectTarget(fd, PREPARE.encode()))
    assert result.status is InjectStatus.STARTED, result


def test_real_guest_takes_large_files_in_prepare(runtime: Runtime) -> None:
    files = {f"f{number}": "QUJD" * 60_000 for number in range(4)}
    prepare = {**json.loads(PREPARE), "context": json.dumps({"files": files})}
    target = native.InjectTarget(
        runtime.channel.fileno(), json.dumps(prepare).encode(), epoch=os.urandom(16)
    )
    result = inject(target)
    assert result.status is InjectStatus.STARTED, result
    assert (runtime.workspace / "f3").read_bytes() == b"ABC" * 60_000


def test_real_guest_rejects_what_it_must(runtime: Runtime) -> None:
    prepare = {**json.loads(PREPARE), "env_overrides": {"LD_PRELOAD": "x"}}
    target = native.InjectTarget(
        runtime.channel.fileno(), json.dumps(prepare).encode(), epoch=os.urandom(16)
    )
    result = inject(target)
    assert result.status is InjectStatus.REJECTED, result
    assert result.reason
