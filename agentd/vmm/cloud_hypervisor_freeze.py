"""Have a machine of Cloud Hypervisor saved, take over what it saved, end it."""

from __future__ import annotations

import os
from concurrent.futures import Executor

from agentd import native
from agentd.vmm.cloud_hypervisor_api import Api
from agentd.vmm.cloud_hypervisor_config import SNAPSHOT_NAME, own_path
from agentd.vmm.cloud_hypervisor_machine import CloudMachine
from agentd.vmm.cloud_hypervisor_save import open_saved, require_space, take_over
from agentd.vmm.launch import make_directory
from agentd.vmm.start import Progress, unless_dead


async def freeze(
    vm: CloudMachine,
    memory_bytes: int,
    user: tuple[int, int] | None,
    progress: Progress,
    pool: Executor,
) -> tuple[int, int]:
    """Save a machine into an empty directory of its user; it has ended when this returns.

    Returns: sealed memfds of its memory, of its state; owned by the caller.
    Raises: as `Api`, `take_over`; OSError. The machine is the caller's to end then.
    """
    require_space(vm.record.run_dir, memory_bytes)
    directory = vm.directory / SNAPSHOT_NAME
    os.close(make_directory(directory, user))
    await unless_dead(vm, _save(vm, progress))
    progress.reached("save")
    saved = open_saved(directory, user[0] if user else os.geteuid())
    try:
        await vm.kill()  # from here on nobody writes to what was saved
        deadline_ns, vm_id = progress.deadline_ns, vm.record.vm_id
        taken = await native.run(
            lambda cancel_fd: take_over(
                saved, vm_id, memory_bytes, deadline_ns=deadline_ns, cancel_fd=cancel_fd
            ),
            discard=_close_all,
            pool=pool,
        )
    finally:
        saved.close()
    progress.reached("keep")
    return taken


async def _save(vm: CloudMachine, progress: Progress) -> None:
    async with Api(vm.api_path) as api:
        await api.pause(deadline_s=progress.left_s)
        progress.reached("stop")
        await api.snapshot(own_path(SNAPSHOT_NAME), deadline_s=progress.left_s)


def _close_all(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
