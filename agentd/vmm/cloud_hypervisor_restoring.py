"""Restore clones, each in the best way that still keeps its promise on this host."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from agentd.store.failures import corrupt
from agentd.store.loaded import LoadedTemplate
from agentd.vmm.cloud_hypervisor_api import Api, UnknownModeError
from agentd.vmm.cloud_hypervisor_config import own_path
from agentd.vmm.cloud_hypervisor_launch import CloudLaunch
from agentd.vmm.cloud_hypervisor_offload import (
    CONFIG_NAME,
    SOCKET_NAME,
    STATE_NAME,
    Offer,
    OffloadServer,
)
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
    choose_restore,
    has_shared,
)
from agentd.vmm.launch import DIRECTORY
from agentd.vmm.start import Progress

_KEPT: Final = 16  # snapshots that need not be read again


@dataclass(frozen=True)
class CloneStart:
    """One clone that is about to be restored: of which template, by a process that runs."""

    template: LoadedTemplate
    snapshot: Snapshot
    launch: CloudLaunch
    pid: int


class Restorer:
    """Chooses, and remembers what did not work. can_fault, offload: see `CloudHypervisor`."""

    def __init__(self, can_fault: bool, offload: OffloadServer | None) -> None:
        self._can_fault = can_fault
        self._offload = offload
        self._spoiled: set[RestoreMode] = set()
        self._snapshots: OrderedDict[str, Snapshot] = OrderedDict()

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
        while True:
            choice = self._choose(clone.snapshot, version)
            plan = plan_restore(clone.snapshot, choice.mode, version)
            try:
                with _laid_out(clone.launch, plan):
                    await self._carry_out(clone, plan, api, progress)
                break
            except UnknownModeError as exc:
                self._spoil(choice.mode, str(exc))
        check_restored(await api.info(deadline_s=progress.left_s), plan)
        self._look(clone, choice)

    def _choose(self, snapshot: Snapshot, version: Version) -> Choice:
        return choose_restore(
            RestoreFacts(
                version=version,
                is_shared=snapshot.is_shared,
                can_map=snapshot.mapped_state is not None,
                has_server=self._offload is not None,
                can_fault=self._can_fault,
                spoiled=frozenset(self._spoiled),
            )
        )

    async def _carry_out(self, clone: CloneStart, plan: Plan, api: Api, progress: Progress) -> None:
        if plan.order is not None:
            await api.restore(plan.order, deadline_s=progress.left_s)
        else:
            await self._receive(clone, api, progress)

    async def _receive(self, clone: CloneStart, api: Api, progress: Progress) -> None:
        """Let the monitor listen while the page server calls it."""
        assert self._offload is not None
        try:
            async with asyncio.TaskGroup() as both:
                path = own_path(SOCKET_NAME)
                both.create_task(api.receive(path, deadline_s=progress.left_s))
                both.create_task(self._offload.offer(_offer(clone)))
        except BaseExceptionGroup as exc:
            await self._offload.forget(clone.launch.vm_id)
            raise exc.exceptions[0] from exc
        except BaseException:
            await self._offload.forget(clone.launch.vm_id)
            raise

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


@contextlib.contextmanager
def _laid_out(launch: CloudLaunch, plan: Plan) -> Iterator[None]:
    """What the monitor finds in its directory for as long as it reads it."""
    with contextlib.ExitStack() as laid:
        for name, data in plan.files.items():
            launch.write(name, data)
            laid.callback(launch.remove, name)
        for name, target in plan.links.items():
            launch.link(name, target)
            laid.callback(launch.remove, name)
        yield


def _offer(clone: CloneStart) -> Offer:
    directory = clone.launch.run_dir / DIRECTORY
    return Offer(
        vm_id=clone.launch.vm_id,
        template_id=clone.template.manifest.template_id,
        socket=directory / SOCKET_NAME,
        image=Path(f"/proc/{os.getpid()}/fd/{clone.template.memory_fd}"),
        config=directory / CONFIG_NAME,
        state=directory / STATE_NAME,
        uid=clone.launch.uid,
    )
