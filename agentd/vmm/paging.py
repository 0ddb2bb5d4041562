"""Have the page server bring the memory of forks, and record what the first of them touch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from agentd.errors import SnapStartError
from agentd.pager.client import Pager
from agentd.pager.working_sets import Source, WorkingSets, image_digest
from agentd.store.files import MEMORY
from agentd.wire.manifest import Manifest

# What a guest touches until it has done its first work; more is no longer what every fork needs.
RECORD_S: Final = 2.0
_END_S: Final = 1.0
# A page server that lives answers within a millisecond. Nobody has to wait for one that does not,
# because there are other ways to the same memory.
_ANSWER_S: Final = 0.5


class Recording:
    """What one fork touches, recorded from its start on for a while; `finish` or `cancel` it."""

    def __init__(self, paging: Paging, source: Source, vm_id: str) -> None:
        self._paging = paging
        self._source = source
        self._vm_id = vm_id
        self._is_due = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"recording-{vm_id}")

    async def _run(self) -> None:
        sets = self._paging.working_sets
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_due.wait(), self._paging.record_s)
            await sets.end(self._paging.pager, self._source, self._vm_id, deadline_s=_END_S)
        finally:
            sets.give_up(self._source, self._vm_id)

    async def finish(self) -> None:
        """End it while the machine still runs. Cancellation: gives it up."""
        self._is_due.set()
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    def cancel(self) -> None:
        """Give it up. Idempotent."""
        self._task.cancel()


@dataclass(frozen=True)
class Paging:
    """The page server, and what it knows of the templates of this node. templates_dir: theirs.
    record_s: how long a fork is recorded.
    """

    pager: Pager
    working_sets: WorkingSets
    templates_dir: Path
    record_s: float = RECORD_S

    def source(self, manifest: Manifest) -> Source:
        """A template, as its working set knows it."""
        directory = self.templates_dir / manifest.name
        return Source(directory, directory / MEMORY, image_digest(manifest.memory))

    async def forget(self, vm_id: str) -> None:
        """The machine will not come, or has ended; a page server that is away forgets by itself."""
        with contextlib.suppress(SnapStartError, TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                await self.pager.forget(vm_id)


@dataclass(frozen=True)
class Served:
    """A machine whose memory the page server brings, for as long as it starts: `start_recording`
    once its guest has, `give_up` on any failure.
    """

    paging: Paging
    source: Source
    vm_id: str
    is_recorded: bool

    async def is_granted(self, order: Coroutine[Any, Any, None], instead: str) -> bool:
        """Whether the page server takes an order for the machine; if not, it is given up.

        instead: where its memory comes from then, for the log.
        """
        try:
            async with asyncio.timeout(_ANSWER_S):
                await order
        except BaseException as exc:
            await self.give_up()
            if not isinstance(exc, SnapStartError | TimeoutError):
                raise
            why = str(exc) or "no answer"
            log = structlog.get_logger()
            log.warning("vmm.memory.unserved", vm=self.vm_id, error=why, instead=instead)
            return False
        return True

    async def wait(self, *, deadline_s: float) -> None:
        """Wait until its guest may resume. Raises: as `Pager.wait`."""
        await self.paging.pager.wait(self.vm_id, deadline_s=deadline_s)

    def start_recording(self) -> Recording | None:
        """Record what it touches from here on, if that was planned; owned by the caller."""
        return Recording(self.paging, self.source, self.vm_id) if self.is_recorded else None

    async def give_up(self) -> None:
        """It has ended, or will not come. Cancellation: the page server finds out by itself."""
        self.paging.working_sets.give_up(self.source, self.vm_id)
        await self.paging.forget(self.vm_id)
