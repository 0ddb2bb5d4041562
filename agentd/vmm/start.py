"""Time one start of a machine, give it up when its process ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

from agentd import native
from agentd.errors import ErrorCode, PeerError, SnapStartError
from agentd.vmm.machine import Machine

_NS_PER_MS: Final = 1e6
_NS_PER_S: Final = 1e9
_LAST_WORDS_S: Final = 0.1  # from an answer that says why, or a connection's end, to the process's

T = TypeVar("T")


class Progress:
    """How far one start is, how long it may still take."""

    def __init__(self, deadline_s: float) -> None:
        self.begun_ns = time.monotonic_ns()
        self.deadline_ns = native.deadline_after(deadline_s)
        self._reached_ns: dict[str, int] = {}

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, 0 after it."""
        return max(0.0, (self.deadline_ns - time.monotonic_ns()) / _NS_PER_S)

    def reached(self, stage: str, at_ns: int | None = None) -> None:
        """A stage is over, now or at a moment of CLOCK_MONOTONIC."""
        self._reached_ns[stage] = time.monotonic_ns() if at_ns is None else at_ns

    @property
    def stages_ms(self) -> Mapping[str, float]:
        """Milliseconds from the beginning to the end of each stage."""
        begun_ns = self.begun_ns
        return {stage: (at - begun_ns) / _NS_PER_MS for stage, at in self._reached_ns.items()}


async def unless_dead(machine: Machine, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work with a machine; when its process ends before, the work is cancelled.

    Raises: what the work does, or PeerError; both say how the process ended, if it has.
    """
    loop = asyncio.get_running_loop()
    death = asyncio.create_task(machine.wait(), name=f"end-of-{machine.record.vm_id}")
    alarm = asyncio.timeout(None)

    def ring(_death: asyncio.Task[str]) -> None:
        with contextlib.suppress(RuntimeError):  # the work is over
            alarm.reschedule(loop.time())

    try:
        async with alarm:
            death.add_done_callback(ring)
            return await work
    except TimeoutError as exc:
        if not alarm.expired():
            raise
        raise PeerError(ErrorCode.VMM_FAILED, f"the monitor {death.result()}") from exc
    except SnapStartError as exc:
        # It may have ended because of it, or the other way round.
        await asyncio.wait({death}, timeout=_LAST_WORDS_S)
        if death.done():
            exc.message = f"{exc.message}; the monitor {death.result()}"
            exc.args = (exc.message,)
        raise
    finally:
        # Not waited for: were we cancelled meanwhile, what the work gave would be lost.
        death.cancel()
