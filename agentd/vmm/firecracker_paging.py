"""Choose where the memory of a fork comes from, have it ready there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from agentd.pager.working_sets import ForkPages, Source
from agentd.vmm import firecracker_config as names
from agentd.vmm.firecracker_api import MemoryBackend
from agentd.vmm.firecracker_launch import FirecrackerLaunch
from agentd.vmm.firecracker_memory import Choice, MemoryFacts, choose_backend, read_recall
from agentd.vmm.paging import Paging, Served
from agentd.wire.manifest import Manifest
from agentd.wire.pager import Listen

_FILE: Final = MemoryBackend("File", names.inherited(names.MEMORY_FD))
_UFFD: Final = MemoryBackend("Uffd", names.own_path(names.PAGER_NAME))


@dataclass(frozen=True)
class Plan:
    """Where one fork's memory comes from. pages: two members of the order to a page server."""

    choice: Choice
    pages: ForkPages


@dataclass(frozen=True)
class Backend:
    """The back end of one fork. served: by whom, None for the file."""

    order: MemoryBackend
    served: Served | None = None


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

    pid: of the machine, which keeps the image open for as long as it needs it.
    Returns: owned by the caller. Cancellation: leaves nothing.
    """
    if paging is None:
        return Backend(_FILE)
    source = paging.source(manifest)
    plan = _plan(paging, source, launch.vm_id, can_fault=can_fault)
    log = structlog.get_logger().bind(vm=launch.vm_id)
    log.debug("vmm.memory", backend=plan.choice.backend, why=plan.choice.why)
    if plan.choice.backend == "File":
        return Backend(_FILE)
    served = Served(paging, source, launch.vm_id, is_recorded=bool(plan.pages.record))
    order = _order(launch, source, plan.pages, pid)
    is_granted = await served.is_granted(paging.pager.listen(order), instead="the file")
    return Backend(_UFFD, served) if is_granted else Backend(_FILE)


def _plan(paging: Paging, source: Source, vm_id: str, *, can_fault: bool) -> Plan:
    """What is done for one fork. One that is recorded needs `Served.give_up`, or a `Recording`."""
    pages = paging.working_sets.plan(source, vm_id) if can_fault else ForkPages()
    facts = MemoryFacts(
        has_server=True,
        can_fault=can_fault,
        is_recorded=bool(pages.record),
        has_set=bool(pages.working_set),
        recall=read_recall(pages.working_set),
        is_warm=True,  # a template's memory is loaded into a memfd before its first fork
    )
    return Plan(choose_backend(facts), pages)


def _order(launch: FirecrackerLaunch, source: Source, pages: ForkPages, pid: int) -> Listen:
    return Listen(
        vm=launch.vm_id,
        socket=str(launch.directory / names.PAGER_NAME),
        protocol="firecracker",
        image=f"/proc/{pid}/fd/{names.MEMORY_FD}",
        digest=source.digest,
        working_set=pages.working_set,
        record=pages.record,
        uid=launch.uid,
    )
