"""Let a create outlive whoever asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from agentd.errors import ErrorCode, TransientError
from agentd.providers.driver import CreateRequest, LocalArtifact


class Run:
    """A create under way, for everybody who wants its outcome; only its owner ends its task."""

    def __init__(
        self,
        request: CreateRequest,
        work: Callable[[Run], Coroutine[Any, Any, LocalArtifact]],
    ) -> None:
        self.request = request
        self._waiting = 0
        self.task = asyncio.create_task(work(self), name=f"kuasar-create:{request.key}")
        # Retrieved: whoever waited may be gone.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def outcome(self) -> LocalArtifact:
        """Wait for it. Raises: what it failed of. Cancellation: leaves it alone."""
        self._waiting += 1
        try:
            await asyncio.wait({self.task})
        finally:
            self._waiting -= 1
        if self.task.cancelled():
            raise stopping(self.request.key)
        return self.task.result()

    def require_wanted(self) -> None:
        """Raises: TransientError SHUTTING_DOWN: everybody who asked for it has left."""
        if not self._waiting:
            raise stopping(self.request.key)


def stopping(key: str) -> TransientError:
    """The error for a create that was not begun, or is not waited for."""
    return TransientError(
        ErrorCode.SHUTTING_DOWN,
        f"making artifact {key!r}: the agent is stopping",
        hint="its successor finds what came of it",
    )
