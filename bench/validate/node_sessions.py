"""Start sessions of one node, ask each who it is, look at its machine from outside."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import psutil

from agentd.cli.demo_starts import ANSWER, REQUEST
from agentd.client import Sandbox
from agentd.errors import ErrorCode, PeerError, SnapStartError
from agentd.wire import api
from bench.node import Node
from bench.steal import read_steal_ms
from bench.validate.evidence import Start

T = TypeVar("T")
CALL_S = 120.0
IDENTITY = """
import json as _json, os as _os, socket as _socket, uuid as _uuid
def _read(path):
    with open(path) as file:
        return file.read()
print(_json.dumps({
    "boot_id": _read("/proc/sys/kernel/random/boot_id").strip(),
    "hostname": _socket.gethostname(),
    "machine_id": _read("/etc/machine-id").strip(),
    "session_id": _os.environ.get("SNAPSTART_SESSION_ID", ""),
    "urandom": _os.urandom(16).hex(),
    "uuid4": str(_uuid.uuid4()),
    "memory_kib": _read("/proc/meminfo").split()[1],
}))
"""


def is_incoming(pid: int) -> bool | None:
    """Whether a monitor was started to load a saved machine; None if it is not there."""
    try:
        return "-incoming" in psutil.Process(pid).cmdline()
    except psutil.Error:
        return None


def run(sandbox: Sandbox, code: str) -> str:
    """What code prints there. Raises: PeerError when it fails."""
    execution = sandbox.run_code(code, timeout=CALL_S)
    if execution.error is not None:
        raise PeerError(
            ErrorCode.GUEST_PROTOCOL, f"running code in {sandbox!r}: {execution.error.value}"
        )
    return "".join(execution.logs.stdout).strip()


def ask(sandbox: Sandbox) -> dict[str, str]:
    """Who it says that it is. Raises: PeerError."""
    said = run(sandbox, IDENTITY)
    try:
        return {str(key): str(value) for key, value in json.loads(said).items()}
    except ValueError as exc:
        raise PeerError(ErrorCode.GUEST_PROTOCOL, f"asking {sandbox!r}: {said!r}") from exc


@contextmanager
def started(
    node: Node, template: str, group: str, mode: api.SessionMode = api.SessionMode.FORK
) -> Iterator[tuple[Start, Sandbox | None]]:
    """A session that has answered, or the record of its refusal; it ends with the block."""
    at_s, begun, stolen = time.time(), time.perf_counter(), read_steal_ms()
    try:
        sandbox = node.create(template, mode=mode)
    except SnapStartError as exc:
        yield refusal(group, mode, exc, at_s), None
        return
    with sandbox:
        ready_ms = 1e3 * (time.perf_counter() - begun)
        try:
            answer = run(sandbox, REQUEST)
            ms, stolen = 1e3 * (time.perf_counter() - begun), read_steal_ms() - stolen
            start = Start(
                name=sandbox.sandbox_id,
                group=group,
                asked=mode.value,
                said=sandbox.info.mode.value,
                is_incoming=is_incoming(sandbox.info.pid),
                stages_ms=sandbox.info.stages_ms,
                identity=ask(sandbox),
                is_right=answer == ANSWER,
                ready_ms=ready_ms,
                ms=ms,
                at_s=at_s,
                steal_ms=stolen,
            )
        except SnapStartError as exc:
            start = refusal(group, mode, exc, at_s, name=sandbox.sandbox_id)
        yield start, sandbox


def refusal(
    group: str, mode: api.SessionMode, error: SnapStartError, at_s: float, name: str = "nobody"
) -> Start:
    """What is recorded of a start that failed."""
    return Start(
        name=name,
        group=group,
        asked=mode.value,
        error=error.code.value,
        message=error.message,
        at_s=at_s,
    )


def take(
    node: Node, template: str, group: str, mode: api.SessionMode = api.SessionMode.FORK
) -> Start:
    """One start; the session is over when this returns."""
    with started(node, template, group, mode) as (start, _sandbox):
        return start


def run_jobs(jobs: Sequence[Callable[[], T]], workers: int) -> list[T]:
    """The results in order; what has not begun when one fails, or at Ctrl-C, never does."""
    pool = ThreadPoolExecutor(workers)
    try:
        return [one.result() for one in [pool.submit(job) for job in jobs]]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def together(jobs: Sequence[Callable[[], T]]) -> tuple[list[T], float]:
    """Do all at once; returns what came of each, and the wall time in milliseconds."""
    begun = time.perf_counter()
    found = run_jobs(jobs, len(jobs))
    return found, 1e3 * (time.perf_counter() - begun)


def end_sessions(node: Node) -> None:
    """End whatever a scenario left."""
    for session in Sandbox.list(socket=node.socket):
        if session.state is not api.SessionState.ENDED:
            with contextlib.suppress(SnapStartError):
                Sandbox.connect(session.id, socket=node.socket).kill()
