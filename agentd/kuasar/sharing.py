"""Run something once for all who want its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """One run of something for all who ask meanwhile; it ends with the last of them."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._task: asyncio.Task[T] | None = None
        self._waiting = 0

    async def get(self) -> T:
        """Its outcome. Cancellation: ends the run, unless others wait for it, too."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="shared-run")
            self._waiting = 0
        task = self._task
        self._waiting += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._task = None
                if not task.done():
                    task.cancel()
                    await asyncio.wait({task})

    async def _run(self) -> T:
        return await self._make()


class Fresh(Generic[T]):
    """A run that began after it was asked for, one for all who asked before it began.

    However many ask, at most one runs and one waits for its turn.
    """

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._turn = asyncio.Lock()
        self._next: Shared[T] | None = None

    async def get(self) -> T:
        """Its outcome. Cancellation: as of `Shared`."""
        if self._next is None:
            self._next = Shared(self._run)
        return await self._next.get()

    async def _run(self) -> T:
        async with self._turn:
            self._next = None
            return await self._make()
