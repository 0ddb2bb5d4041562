"""Have the page server bring the memory of forks."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from agentd.errors import SnapStartError
from agentd.pager.client import Pager
from agentd.pager.working_sets import ForkPages, Source, WorkingSets
from agentd.store.files import MEMORY
from agentd.vmm import firecracker_config as names
from agentd.vmm.firecracker_api import MemoryBackend
from agentd.vmm.firecracker_launch import FirecrackerLaunch
from agentd.vmm.firecracker_memory import (
    Choice,
    MemoryFacts,
    choose_backend,
    image_digest,
    read_recall,
)
from agentd.wire.manifest import Manifest
from agentd.wire.pager import Listen

# What a guest touches until it has done its first work; more is no longer what every fork needs.
RECORD_S: Final = 2.0
_END_S: Final = 1.0
# A page server that lives answers within a millisecond. Nobody has to wait for one that does not,
# because the file is there too.
_LISTEN_S: Final = 0.5


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

    def plan(self, source: Source, vm_id: str, *, can_fault: bool) -> Plan:
        """What is done for one fork. One that is recorded needs `give_up`, or a `Recording`."""
        pages = self.working_sets.plan(source, vm_id) if can_fault else ForkPages()
        facts = MemoryFacts(
            has_server=True,
            can_fault=can_fault,
            is_recorded=bool(pages.record),
            has_set=bool(pages.working_set),
            recall=read_recall(pages.working_set),
            is_warm=True,  # a template's memory is loaded into a memfd before its first fork
        )
        return Plan(choose_backend(facts), pages)

    async def listen(
        self, launch: FirecrackerLaunch, source: Source, pages: ForkPages, pid: int
    ) -> None:
        """Have the page server wait for a machine's memory. After any failure: `forget`.

        pid: of the machine, which keeps the image open for as long as it needs it.
        """
        order = Listen(
            vm=launch.vm_id,
            socket=str(launch.directory / names.PAGER_NAME),
            protocol="firecracker",
            image=f"/proc/{pid}/fd/{names.MEMORY_FD}",
            digest=source.digest,
            working_set=pages.working_set,
            record=pages.record,
            uid=launch.uid,
        )
        async with asyncio.timeout(_LISTEN_S):
            await self.pager.listen(order)

    async def forget(self, vm_id: str) -> None:
        """The machine will not come, or has ended; a page server that is away forgets by itself."""
        with contextlib.suppress(SnapStartError, TimeoutError):
            async with asyncio.timeout(_LISTEN_S):
                await self.pager.forget(vm_id)


@dataclass(frozen=True)
class Plan:
    """Where one fork's memory comes from. pages: two members of the order to a page server."""

    choice: Choice
    pages: ForkPages


async def open_backend(
    paging: Paging | None,
    launch: FirecrackerLaunch,
    manifest: Manifest,
    pid: int,
    *,
    can_fault: bool,
) -> Backend:
    """Choose where a machine's memory comes from, make it ready; the file, whatever the page server
    has against it.

    Returns: owned by the caller. Cancellation: leaves nothing.
    """
    if paging is None:
        return Backend(_FILE)
    source = paging.source(manifest)
    plan = paging.plan(source, launch.vm_id, can_fault=can_fault)
    served = Served(paging, source, launch.vm_id, is_recorded=bool(plan.pages.record))
    log = structlog.get_logger().bind(vm=launch.vm_id)
    if plan.choice.backend == "File":
        log.debug("vmm.memory", backend="File", why=plan.choice.why)
        return Backend(_FILE)
    try:
        await paging.listen(launch, source, plan.pages, pid)
    except BaseException as exc:
        await served.give_up()
        if not isinstance(exc, SnapStartError | TimeoutError):
            raise
        log.warning("vmm.memory.unserved", error=str(exc) or "no answer", instead="the file")
        return Backend(_FILE)
    log.debug("vmm.memory", backend="Uffd", why=plan.choice.why)
    return Backend(_UFFD, served)


_FILE: Final = MemoryBackend("File", names.inherited(names.MEMORY_FD))
_UFFD: Final = MemoryBackend("Uffd", names.own_path(names.PAGER_NAME))


@dataclass(frozen=True)
class Served:
    """A machine whose memory the page server brings, for as long as it starts: `start_recording`
    once its guest has, `give_up` on any failure.
    """

    paging: Paging
    source: Source
    vm_id: str
    is_recorded: bool

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


@dataclass(frozen=True)
class Backend:
    """The back end of one fork. served: by whom, None for the file."""

    order: MemoryBackend
    served: Served | None = None
