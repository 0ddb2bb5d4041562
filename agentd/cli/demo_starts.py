"""Take one sample of each kind of start."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from agentd.cli.private_node import Node
from agentd.client import Sandbox
from agentd.errors import ErrorCode, PeerError
from agentd.wire import api
from agentd.wire.demo import Sample, Stages

# The first thing that is asked of every session that is measured, with what it must print.
REQUEST = "import numpy; print(int(numpy.arange(1000).sum()))"
ANSWER = "499500"


@dataclass(frozen=True)
class Start:
    """A session that was started and has answered once; the caller kills it."""

    sandbox: Sandbox
    sample: Sample
    stages: Stages | None


def start_session(
    node: Node, template: str, *, mode: api.SessionMode = api.SessionMode.FORK, code: str = ""
) -> Start:
    """From the request to the reply of the first code, as a client sees it."""
    started_at, begin = time.time(), time.perf_counter()
    sandbox = node.create(template, mode=mode)
    try:
        created_ms = (time.perf_counter() - begin) * 1e3
        execution = sandbox.run_code(code or REQUEST, timeout=120)
        ms = (time.perf_counter() - begin) * 1e3
        printed = "".join(execution.logs.stdout).strip()
        if not code and printed != ANSWER:
            raise PeerError(ErrorCode.GUEST_PROTOCOL, f"{sandbox!r} answered {printed!r}")
    except BaseException:
        sandbox.kill()
        raise
    stages = _stages(sandbox.info.stages_ms, created_ms, ms) if mode == "fork" else None
    return Start(sandbox, Sample(ms=ms, started_at=started_at), stages)


def _stages(reached: dict[str, float], created_ms: float, ms: float) -> Stages:
    """The daemon's own times, shifted by what the request took before and after."""
    around = max(0.0, created_ms - reached.get("guest_ready", 0.0)) / 2
    names = ("spawn", "load", "resume", "inject", "guest_ready")
    return Stages(**{name: reached.get(name, 0.0) + around for name in names}, first_reply=ms)


def start_together(node: Node, template: str, count: int) -> tuple[list[Start], float]:
    """Start forks at the same moment; returns them with the wall time in milliseconds."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        pending = [pool.submit(start_session, node, template) for _ in range(count)]
        starts = [one.result() for one in pending]
    return starts, (time.perf_counter() - begin) * 1e3
