"""Restore clones, each in the best way that still keeps its promise on this host."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import structlog

from agentd.pager.working_sets import ForkPages
from agentd.store.failures import corrupt
from agentd.store.loaded import LoadedTemplate
from agentd.vmm.cloud_hypervisor_api import Api, UnknownModeError
from agentd.vmm.cloud_hypervisor_config import own_path
from agentd.vmm.cloud_hypervisor_launch import CloudLaunch
from agentd.vmm.cloud_hypervisor_offload import SOCKET_NAME, offload_order
from agentd.vmm.cloud_hypervisor_restore import (
    Plan,
    check_restored,
    plan_restore,
    private_bytes,
)
from agentd.vmm.cloud_hypervisor_snapshot import Snapshot, SnapshotDamagedError, decode_snapshot
from agentd.vmm.cloud_hypervisor_versions import (
    SHARING,
    Choice,
    RestoreFacts,
    RestoreMode,
    Version,
    can_offload,
    choose_restore,
    has_shared,
)
from agentd.vmm.launch import write_file
from agentd.vmm.paging import Paging, Served
from agentd.vmm.start import Progress

_KEPT: Final = 16  # snapshots that need not be read again


@dataclass
class CloneStart:
    """One clone that is about to be restored: of which template, by a process that runs.

    served: once the page server brings its memory; whoever starts it gives that up if it fails.
    """

    template: LoadedTemplate
    snapshot: Snapshot
    launch: CloudLaunch
    pid: int
    served: Served | None = None


class Restorer:
    """Chooses, and remembers what did not work. can_fault, has_huge: see `RestoreFacts`. paging:
    the page server, None if there is none.
    """

    def __init__(self, *, can_fault: bool, has_huge: bool, paging: Paging | None) -> None:
        self._can_fault = can_fault
        self._has_huge = has_huge
        self._paging = paging
        self._spoiled: set[RestoreMode] = set()
        self._snapshots: OrderedDict[str, Snapshot] = OrderedDict()

    def is_to_be_shared(self, version: Version) -> bool:
        """Whether a machine is to be booted such that a page server could fill its clones."""
        facts = self._facts(version, is_shared=True, can_map=False)
        return facts.has_pages and can_offload(facts)

    def read(self, template: LoadedTemplate) -> Snapshot:
        """What was saved of a template's machine. Raises: PermanentError when it is damaged."""
        template_id = template.manifest.template_id
        if template_id not in self._snapshots:
            self._snapshots[template_id] = _read(template)
        self._snapshots.move_to_end(template_id)
        while len(self._snapshots) > _KEPT:
            self._snapshots.popitem(last=False)
        return self._snapshots[template_id]

    async def restore(
        self, clone: CloneStart, version: Version, api: Api, progress: Progress
    ) -> None:
        """Have a clone made, paused. version: of its monitor. Raises: as `Api`.

        A mode that this build turns out not to have is not tried again.
        """
        can_serve = True
        while True:
            choice, pages = self._choose(clone, version, can_serve=can_serve)
            plan = plan_restore(clone.snapshot, choice.mode, version)
            clone.served = self._claimed(clone, pages)
            try:
                with _laid_out(clone.launch, plan):
                    if plan.order is not None:
                        await api.restore(plan.order, deadline_s=progress.left_s)
                        break
                    can_serve = await self._has_served(clone, pages)
                    if can_serve:
                        await _receive(clone, api, progress)
                        break
            except UnknownModeError as exc:
                self._spoil(choice.mode, str(exc))
        check_restored(await api.info(deadline_s=progress.left_s), plan)
        self._look(clone, choice)

    def _choose(
        self, clone: CloneStart, version: Version, *, can_serve: bool
    ) -> tuple[Choice, ForkPages]:
        """A mode, and what the page server is told if it is the one that brings the memory. Only
        then it is asked what it knows: who is to be recorded has to be.
        """
        snapshot = clone.snapshot
        can_map = snapshot.mapped_state is not None
        facts = self._facts(version, is_shared=snapshot.is_shared, can_map=can_map)
        choice = choose_restore(replace(facts, has_pages=facts.has_pages and can_serve))
        if choice.mode is not RestoreMode.OFFLOAD:
            return choice, ForkPages()
        assert self._paging is not None
        source = self._paging.source(clone.template.manifest)
        pages = self._paging.working_sets.plan(source, clone.launch.vm_id)
        if pages != ForkPages():
            return choice, pages
        return choose_restore(replace(facts, has_pages=False)), pages

    def _facts(self, version: Version, *, is_shared: bool, can_map: bool) -> RestoreFacts:
        return RestoreFacts(
            version=version,
            is_shared=is_shared,
            can_map=can_map,
            has_pages=self._paging is not None,
            can_fault=self._can_fault,
            has_huge=self._has_huge,
            spoiled=frozenset(self._spoiled),
        )

    def _claimed(self, clone: CloneStart, pages: ForkPages) -> Served | None:
        """A clone that the page server is to know of from here on, None if it is not."""
        if self._paging is None or pages == ForkPages():
            return None
        source = self._paging.source(clone.template.manifest)
        return Served(self._paging, source, clone.launch.vm_id, is_recorded=bool(pages.record))

    async def _has_served(self, clone: CloneStart, pages: ForkPages) -> bool:
        """Have the page server call the monitor, which is about to listen; whether it will."""
        assert clone.served is not None
        order = offload_order(clone.launch, clone.served.source, pages, clone.pid)
        offering = clone.served.paging.pager.offload(order)
        return await clone.served.is_granted(offering, instead="what the monitor does itself")

    def _look(self, clone: CloneStart, choice: Choice) -> None:
        """Notice a clone that got memory of its own where it should share its template's."""
        data_bytes = clone.template.manifest.memory.data_bytes
        try:
            has_bytes = private_bytes(clone.pid)
        except OSError:  # it has ended, which whoever asks it next is told
            return
        structlog.get_logger().debug(
            "vmm.restored",
            vm=clone.launch.vm_id,
            mode=choice.mode.value,
            why=choice.why,
            private_bytes=has_bytes,
        )
        if choice.mode in SHARING and not has_shared(has_bytes, data_bytes):
            self._spoil(choice.mode, f"a clone has {has_bytes} bytes for itself")

    def _spoil(self, mode: RestoreMode, why: str) -> None:
        self._spoiled.add(mode)
        structlog.get_logger().warning(
            "vmm.restore.spoiled", mode=mode.value, why=why, instead="another mode from here on"
        )


def _read(template: LoadedTemplate) -> Snapshot:
    name = template.manifest.name
    size_bytes = template.manifest.device_state.size_bytes
    try:
        snapshot = decode_snapshot(os.pread(template.state_fd, size_bytes, 0))
    except SnapshotDamagedError as exc:
        raise corrupt(name, f"its device state: {exc}") from exc
    if snapshot.memory_bytes != template.manifest.memory.size_bytes:
        raise corrupt(name, f"its device state names {snapshot.memory_bytes} bytes of memory")
    return snapshot


async def _receive(clone: CloneStart, api: Api, progress: Progress) -> None:
    """Let the monitor listen while the page server calls it."""
    assert clone.served is not None
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(api.receive(own_path(SOCKET_NAME), deadline_s=progress.left_s))
            both.create_task(clone.served.wait(deadline_s=progress.left_s))
    except BaseExceptionGroup as exc:
        raise exc.exceptions[0] from exc


@contextlib.contextmanager
def _laid_out(launch: CloudLaunch, plan: Plan) -> Iterator[None]:
    """What the monitor, or the page server, finds for as long as it reads it."""
    with contextlib.ExitStack() as laid:
        for name, data in plan.files.items():
            launch.write(name, data)
            laid.callback(launch.remove, name)
        for name, target in plan.links.items():
            launch.link(name, target)
            laid.callback(launch.remove, name)
        for name, data in plan.sent.items():
            path = launch.run_dir / name
            write_file(None, path, data)
            laid.callback(path.unlink, missing_ok=True)
        yield
