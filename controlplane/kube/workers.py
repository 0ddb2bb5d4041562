"""Run reconcilers over a queue of keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from random import Random
from typing import Generic, TypeVar

import structlog

from controlplane.errors import ConflictError, ControlPlaneError
from controlplane.kube.backoff import Backoff
from controlplane.kube.queue import KeyQueue

K = TypeVar("K", bound=Hashable)

_log = structlog.get_logger()


class WorkQueue(Generic[K]):
    """A KeyQueue for tasks of one event loop."""

    def __init__(
        self,
        *,
        backoff: Backoff | None = None,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys: KeyQueue[K] = KeyQueue(random or Random(), backoff or Backoff(cap_s=300.0))
        self._clock = clock
        self._waiters: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        """As KeyQueue."""
        return len(self._keys)

    def add(self, key: K) -> None:
        """As KeyQueue.add."""
        self._keys.add(key)
        self._wake()

    def add_after(self, key: K, delay_s: float) -> None:
        """Hand it out after a delay, if no earlier time is pending."""
        self._keys.add_at(key, self._clock() + delay_s)
        self._wake()

    async def take(self) -> K:
        """Wait for a key; it is the caller's until `done`. Cancellation: none is taken."""
        while True:
            key = self._keys.take(self._clock())
            if key is not None:
                return key
            await self._wait()

    def done(self, key: K, *, next_s: float | None = None) -> None:
        """It went well. next_s: look again after so many seconds."""
        self._keys.forget(key)
        if next_s is not None:
            self._keys.add_at(key, self._clock() + next_s)
        self._release(key)

    def failed(self, key: K, delay_s: float = 0.0) -> float:
        """It failed: again after a back-off, at least delay_s. Returns: the delay."""
        delay_s = self._keys.failed(key, self._clock(), delay_s)
        self._release(key)
        return delay_s

    def abandoned(self, key: K) -> None:
        """The work was cancelled: the key is ready again, at once."""
        self._keys.add(key)
        self._release(key)

    def _release(self, key: K) -> None:
        self._keys.done(key)
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self) -> None:
        due = self._keys.next_due()
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=None if due is None else due - self._clock())
        finally:
            self._waiters.discard(waiter)
            waiter.cancel()


async def run_workers(
    queue: WorkQueue[K],
    reconcile: Callable[[K], Awaitable[float | None]],
    count: int,
    *,
    name: str,
    on_failure: Callable[[K, Exception], None] | None = None,
) -> None:
    """Reconcile keys until cancelled; no key by two workers at once.

    Args: reconcile: returns after how many seconds to look again, None: when something changes.
    Whatever it raises puts the key back with back-off. on_failure: instead of a log line.
    Cancellation: cancels the reconciles that run, and waits for them.
    """
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            worker = _work(queue, reconcile, name, on_failure or _logger(name))
            group.create_task(worker, name=f"{name}:{number}")


async def _work(
    queue: WorkQueue[K],
    reconcile: Callable[[K], Awaitable[float | None]],
    name: str,
    on_failure: Callable[[K, Exception], None],
) -> None:
    while True:
        key = await queue.take()
        try:
            next_s = await reconcile(key)
        except Exception as exc:
            queue.failed(key, getattr(exc, "delay_s", 0.0))
            on_failure(key, exc)
        except BaseException:
            queue.abandoned(key)
            raise
        else:
            queue.done(key, next_s=next_s)


def _logger(name: str) -> Callable[[object, Exception], None]:
    def log(key: object, exc: Exception) -> None:
        if isinstance(exc, ConflictError):
            _log.debug(f"{name}.conflict", key=str(key), error=str(exc))
        elif isinstance(exc, ControlPlaneError):
            _log.warning(f"{name}.failed", key=str(key), error=str(exc))
        else:
            _log.error(f"{name}.failed", key=str(key), error=repr(exc), exc_info=exc)

    return log
