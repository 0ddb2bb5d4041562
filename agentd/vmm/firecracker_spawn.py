"""Start Firecracker processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd import native
from agentd.store.memfd import create_memfd
from agentd.units import MIB
from agentd.vmm import firecracker_config as configs
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.find import read_start_ticks
from agentd.vmm.firecracker_launch import FirecrackerLaunch
from agentd.vmm.firecracker_machine import FirecrackerMachine, SaveFiles
from agentd.vmm.firecracker_versions import Program
from agentd.vmm.launch import opened
from agentd.vmm.limits import Limits
from agentd.vmm.vmm import BootSpec, ForkSpec, VmRecord

# What a monitor may write to one file: its log; of a machine that will be saved, its memory.
_MAX_FILE_BYTES: Final = 16 * MIB


@dataclass(frozen=True)
class FirecrackerSettings:
    """How to run Firecracker on this host.

    binary: absolute path. program: who it says that it is. host: by
    `agentd.vmm.feature_gate.name_host`. installation: marks the processes that are ours. vms_dir:
    holds each machine's run directory. user_of: who a machine runs as, None for the user of this
    process. can_fault: whether machines may make a userfaultfd.
    """

    binary: str
    program: Program
    host: str
    host_tsc_khz: int
    installation: str
    vms_dir: Path
    user_of: Callable[[str], tuple[int, int] | None]
    can_fault: bool = False


class Spawner:
    """Starts them, each in a control group and a directory of its own. pool: of threads."""

    def __init__(self, settings: FirecrackerSettings, cgroups: CgroupTree, pool: Executor) -> None:
        self._settings = settings
        self._cgroups = cgroups
        self._pool = pool

    def launch(
        self, spec: BootSpec | ForkSpec, limits: Limits
    ) -> contextlib.AbstractContextManager[FirecrackerLaunch]:
        """What one start holds, as `agentd.vmm.launch.opened` does."""
        launch = FirecrackerLaunch(spec.vm_id, spec.run_dir, self._settings.user_of(spec.vm_id))
        return opened(launch, self._cgroups, limits)

    async def start_to_boot(
        self, launch: FirecrackerLaunch, spec: BootSpec, *, is_to_be_saved: bool
    ) -> FirecrackerMachine:
        """One for a machine that boots; owned by the caller. Raises: as `native.spawn`; OSError.

        Cancellation: ends it.
        """
        launch.inherit_file(spec.kernel, configs.KERNEL_FD)
        launch.inherit_file(spec.initrd, configs.INITRD_FD)
        if not is_to_be_saved:
            return await self.start(launch)
        memory_fd = launch.own(create_memfd(f"{launch.vm_id}-saved-memory"))
        state_fd = launch.own(create_memfd(f"{launch.vm_id}-state"))
        launch.inherit(memory_fd, configs.MEMORY_FD)
        launch.inherit(state_fd, configs.STATE_FD)
        saves = SaveFiles(memory_fd, state_fd, spec.machine)
        return await self.start(launch, saves, spec.machine.memory_mib * MIB)

    async def start(
        self, launch: FirecrackerLaunch, saves: SaveFiles | None = None, saved_bytes: int = 0
    ) -> FirecrackerMachine:
        """One with what `launch` inherits; owned by the caller.

        Raises, cancellation: as `start_to_boot`.
        """
        request = native.SpawnRequest(
            executable=self._settings.binary,
            argv=configs.command_line(self._settings.installation, launch.vm_id),
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            fds=launch.inherited,
            output_fd=launch.console_fd,
            cgroup_fd=launch.cgroup_fd,
            max_file_bytes=_MAX_FILE_BYTES + saved_bytes,
            user=launch.user,
        )
        process = await native.run(
            lambda _cancel: native.spawn(request), discard=native.discard_process, pool=self._pool
        )
        if saves is not None:
            launch.keep(saves.memory_fd)
            launch.keep(saves.state_fd)
        ticks = read_start_ticks(process.pid) or 0
        return FirecrackerMachine(
            VmRecord(launch.vm_id, launch.run_dir, process.pid, ticks),
            process.pidfd,
            is_child=True,
            cgroups=self._cgroups,
            console_fd=launch.keep(launch.console_fd),
            saves=saves,
        )
