"""Let a snapshot that was asked for outlive whoever asked."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from agentd.providers.driver import CreateRequest, LocalArtifact, SnapshotDriver
from agentd.proxy.limits import CREATES_MAX
from agentd.proxy.refusals import RefusedError

_RETRY_S: Final = 30.0


@dataclass(frozen=True)
class _Run:
    order: CreateRequest
    task: asyncio.Task[LocalArtifact]


class Making:
    """What the driver makes for this proxy, one order for each key; `close` ends the waiting.

    A driver has an order wait for another one of its key, and then makes it in the other's place.
    Two SnapStarts of one key would so take turns in losing their templates.
    """

    def __init__(self, driver: SnapshotDriver) -> None:
        self._driver = driver
        self._runs: dict[str, _Run] = {}

    async def create(self, order: CreateRequest) -> LocalArtifact:
        """Have it made, or wait with those who asked for the same.

        Raises: RefusedError 409: another order of the key is under way; 429: too many are; what the
        driver raises. Cancellation: it is made all the same.
        """
        run = self._runs.get(order.key) or self._begin(order)
        if run.order != order:
            raise RefusedError(
                409,
                "template_busy",
                "another order of that key is being carried out",
                retry_s=_RETRY_S,
            )
        return await asyncio.shield(run.task)

    def _begin(self, order: CreateRequest) -> _Run:
        if len(self._runs) >= CREATES_MAX:
            message = "snapshots are being made already"
            raise RefusedError(429, "limited", message, retry_s=_RETRY_S)
        task = asyncio.create_task(self._driver.create(order), name="proxy-create")
        run = self._runs[order.key] = _Run(order, task)
        task.add_done_callback(lambda done: self._end(order.key, done))
        return run

    def _end(self, key: str, task: asyncio.Task[LocalArtifact]) -> None:
        del self._runs[key]
        # Retrieved: whoever waited may be gone.
        if not task.cancelled():
            task.exception()

    async def close(self) -> None:
        """Wait for nothing any more; what becomes of an order is the driver's. Idempotent."""
        tasks = {run.task for run in self._runs.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
