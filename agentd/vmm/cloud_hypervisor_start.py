"""Time one start of a machine, give it up when its process ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from agentd import native
from agentd.errors import ErrorCode, PeerError
from agentd.vmm.cloud_hypervisor_machine import CloudMachine

_NS_PER_MS: Final = 1e6
_NS_PER_S: Final = 1e9
_LAST_WORDS_S: Final = 0.05  # from a connection's end to the process's

T = TypeVar("T")


class Progress:
    """How far one start is, how long it may still take."""

    def __init__(self, deadline_s: float) -> None:
        self._begun_ns = time.monotonic_ns()
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
        begun_ns = self._begun_ns
        return {stage: (at - begun_ns) / _NS_PER_MS for stage, at in self._reached_ns.items()}


async def unless_dead(machine: CloudMachine, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work with a machine; when its process ends before, the work is cancelled.

    Raises: PeerError that says how the process ended.
    """
    death = asyncio.create_task(machine.wait(), name=f"end-of-{machine.record.vm_id}")
    alarm = asyncio.timeout(None)
    ring = _ringer(alarm)
    try:
        async with alarm:
            death.add_done_callback(ring)
            try:
                return await work
            finally:
                death.remove_done_callback(ring)
    except TimeoutError as exc:
        if not alarm.expired():
            raise
        raise _ended(death.result()) from exc
    except PeerError as exc:
        if exc.code is ErrorCode.VMM_FAILED:  # it hung up, perhaps because it ended
            await asyncio.wait({death}, timeout=_LAST_WORDS_S)
        if death.done():
            raise _ended(death.result()) from exc
        raise
    finally:
        # Not waited for, lest a result be lost by a cancellation meanwhile; it holds nothing.
        death.cancel()


def _ringer(alarm: asyncio.Timeout) -> Callable[[asyncio.Future[str]], None]:
    def ring(_death: asyncio.Future[str]) -> None:
        alarm.reschedule(asyncio.get_running_loop().time())

    return ring


def _ended(how: str) -> PeerError:
    return PeerError(ErrorCode.VMM_FAILED, f"the monitor {how}")
