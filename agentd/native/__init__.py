"""Start, checkpoint and hand sessions to virtual machines through the C core.

Descriptors passed in are borrowed unless a docstring says otherwise; descriptors in results are
owned by whoever holds the result. Deadlines are absolute nanoseconds of CLOCK_MONOTONIC
(`deadline_after`). The functions block without the GIL; `run` makes them awaitable.
"""

from __future__ import annotations

from agentd.native.calls import NEVER_NS, CallCancelledError, deadline_after, run
from agentd.native.checkpointing import CheckpointResult, CheckpointTimes, checkpoint
from agentd.native.clock import measure_tsc_khz
from agentd.native.forking import (
    EPOCH_BYTES,
    NEXT_STREAM,
    ForkError,
    ForkRequest,
    ForkResult,
    ForkStage,
    ForkTimes,
    discard_fork,
    fork,
)
from agentd.native.injection import InjectPhase, InjectResult, InjectStatus, InjectTarget, inject
from agentd.native.memory import CHUNK_BYTES, CopiedMemory, copy_memory
from agentd.native.pools import full_pool
from agentd.native.process import Process, SpawnRequest, discard_process, kill, spawn
from agentd.native.readiness import close_idle_watches, wait_ready

__all__ = [
    "CHUNK_BYTES",
    "EPOCH_BYTES",
    "NEVER_NS",
    "NEXT_STREAM",
    "CallCancelledError",
    "CheckpointResult",
    "CheckpointTimes",
    "CopiedMemory",
    "ForkError",
    "ForkRequest",
    "ForkResult",
    "ForkStage",
    "ForkTimes",
    "InjectPhase",
    "InjectResult",
    "InjectStatus",
    "InjectTarget",
    "Process",
    "SpawnRequest",
    "checkpoint",
    "close_idle_watches",
    "copy_memory",
    "deadline_after",
    "discard_fork",
    "discard_process",
    "fork",
    "full_pool",
    "inject",
    "kill",
    "measure_tsc_khz",
    "run",
    "spawn",
    "wait_ready",
]
