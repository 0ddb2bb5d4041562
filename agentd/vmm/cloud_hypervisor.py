"""Drive Cloud Hypervisor: boot, checkpoint, fork, adopt.

A monitor inherits the socket of its interface, which listens already; a directory that belongs to
its user; the memory of its template. It is never used twice: one that failed is ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd import native
from agentd.errors import ConfigError, ErrorCode, InvariantError, SnapStartError
from agentd.store.failures import WRITING, translated
from agentd.store.loaded import LoadedTemplate
from agentd.store.memfd import check_sealed, create_memfd
from agentd.units import MIB
from agentd.vmm import cloud_hypervisor_config as configs
from agentd.vmm import hybrid_vsock
from agentd.vmm.adopting import Adopting
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.cloud_hypervisor_api import Api
from agentd.vmm.cloud_hypervisor_explain import explained
from agentd.vmm.cloud_hypervisor_freeze import freeze
from agentd.vmm.cloud_hypervisor_launch import CloudLaunch
from agentd.vmm.cloud_hypervisor_machine import CloudMachine
from agentd.vmm.cloud_hypervisor_restoring import CloneStart, Restorer
from agentd.vmm.cloud_hypervisor_save import MARGIN_BYTES
from agentd.vmm.cloud_hypervisor_versions import OLDEST, Version, keeps_memory_in_file
from agentd.vmm.explain import add_console
from agentd.vmm.find import Finder, named_by_first_word, read_start_ticks
from agentd.vmm.guest import start_guest
from agentd.vmm.launch import opened
from agentd.vmm.limits import Limits, choose_limits
from agentd.vmm.machine import ConsoleLog
from agentd.vmm.paging import Paging
from agentd.vmm.require import KVM_DEVICE, require_access, require_compatible
from agentd.vmm.start import Progress, unless_dead
from agentd.vmm.vmm import BootSpec, Checkpoint, ForkSpec, Started, Vm, VmRecord
from agentd.wire.manifest import Machine as Shape
from agentd.wire.manifest import VmmFacts

ENGINE: Final = "cloud-hypervisor"
DEFAULT_STARTS: Final = 4
# Threads beyond one for each start: a build takes one for its spawn, one for its checkpoint.
_BUILD_THREADS: Final = 2
_BOOT_S: Final = 60.0  # until a monitor has read the kernel


@dataclass(frozen=True)
class CloudHypervisorSettings:
    """How to run Cloud Hypervisor on this host.

    binary: absolute path. version: what it says of itself. installation: marks the processes that
    are ours. vms_dir: holds each machine's run directory. user_of: who a machine runs as, None for
    the user of this process. can_fault: whether machines may make a userfaultfd. has_huge: whether
    memory that is shared may have huge pages.
    """

    binary: str
    version: str
    host_cpu: str
    host_tsc_khz: int
    installation: str
    vms_dir: Path
    user_of: Callable[[str], tuple[int, int] | None]
    can_fault: bool = False
    has_huge: bool = False


class CloudHypervisor(Adopting[CloudMachine]):
    """The Cloud Hypervisor of this node. Implements `agentd.vmm.vmm.Vmm`.

    Starts block threads of their own for as long as they take, so that they do not keep what ends
    machines from the event loop's. starts: most machines that start at the same moment. paging: the
    page server, None if each machine has to see to its memory itself.
    """

    def __init__(
        self,
        settings: CloudHypervisorSettings,
        cgroups: CgroupTree,
        starts: int = DEFAULT_STARTS,
        paging: Paging | None = None,
    ) -> None:
        finder = Finder(
            settings.installation, settings.vms_dir, settings.user_of, named_by_first_word
        )
        super().__init__(CloudMachine, finder, cgroups)
        self._settings = settings
        self._paging = paging
        self._restorer = Restorer(
            can_fault=settings.can_fault, has_huge=settings.has_huge, paging=paging
        )
        self._pool = native.full_pool(starts + _BUILD_THREADS, "vmm")

    def __repr__(self) -> str:
        return f"<CloudHypervisor {self._settings.version}>"

    def facts(self, machine: Shape) -> VmmFacts:
        """What templates of this Cloud Hypervisor depend on."""
        return VmmFacts(
            engine=ENGINE,
            version=self._settings.version,
            accel="kvm",
            machine_type=configs.MACHINE_TYPE,
            cpu=configs.CPU,
            device_argv=configs.device_argv(machine),
            host_cpu=self._settings.host_cpu,
            host_tsc_khz=self._settings.host_tsc_khz,
        )

    def check(self) -> None:
        """See whether the program, and the device it needs, are still there."""
        require_access(self, ((self._settings.binary, os.X_OK), (KVM_DEVICE, os.R_OK | os.W_OK)))

    # -- starting -------------------------------------------------------------------------

    async def boot(self, spec: BootSpec) -> CloudMachine:
        """Start a machine from an image; returns once its monitor runs the kernel."""
        progress = Progress(_BOOT_S)
        limits = choose_limits(spec.machine, is_copied=True)
        with self._launch(spec, limits) as launch:
            limit_bytes = spec.machine.memory_mib * MIB + MARGIN_BYTES
            machine = await self._spawn_boot(launch, spec, limit_bytes)
            config = configs.boot_config(
                spec.machine, spec.cmdline, is_shared=self._is_to_be_shared()
            )
            async with _starting(machine), Api(machine.api_path) as api:
                await unless_dead(machine, self._boot(launch, api, config, progress))
        return machine

    def _is_to_be_shared(self) -> bool:
        version = Version.parse(self._settings.version)
        return version is not None and self._restorer.is_to_be_shared(version)

    async def boot_session(self, spec: BootSpec, prepare: bytes, *, deadline_s: float) -> Started:
        """Boot a machine cold, inject its identity, wait until it has started."""
        progress = Progress(deadline_s)
        limits = choose_limits(spec.machine)
        with self._launch(spec, limits) as launch:
            machine = await self._spawn_boot(launch, spec, self._file_limit(spec.machine))
            progress.reached("spawn")
            config = configs.boot_config(spec.machine, spec.cmdline, is_shared=False)
            async with _starting(machine):
                async with Api(machine.api_path) as api:
                    await unless_dead(machine, self._boot(launch, api, config, progress))
                progress.reached("load")
                progress.reached("resume")
                return await self._start(machine, prepare, progress)

    async def fork(self, template: LoadedTemplate, spec: ForkSpec, *, deadline_s: float) -> Started:
        """Start a copy-on-write copy of a template with an identity of its own."""
        progress = Progress(deadline_s)
        check_sealed(template)
        manifest = template.manifest
        require_compatible(self, manifest, self.facts(manifest.machine))
        snapshot = self._restorer.read(template)
        limits = choose_limits(manifest.machine)
        with self._launch(spec, limits) as launch:
            launch.inherit(template.memory_fd, configs.MEMORY_FD)
            machine = await self._spawn(launch, self._file_limit(manifest.machine))
            progress.reached("spawn")
            clone = CloneStart(template, snapshot, launch, machine.record.pid)
            async with _starting(machine), _served(clone):
                async with Api(machine.api_path) as api:
                    await unless_dead(machine, self._restore(clone, api, progress))
                progress.reached("resume")
                started = await self._start(machine, spec.prepare, progress)
                machine.record_if_wanted(clone.served)
                return started

    async def _restore(self, clone: CloneStart, api: Api, progress: Progress) -> None:
        version = await self._require_version(api, progress)
        await self._restorer.restore(clone, version, api, progress)
        progress.reached("load")
        await api.resume(deadline_s=progress.left_s)

    def _launch(
        self, spec: BootSpec | ForkSpec, limits: Limits
    ) -> contextlib.AbstractContextManager[CloudLaunch]:
        launch = CloudLaunch(spec.vm_id, spec.run_dir, self._settings.user_of(spec.vm_id))
        return opened(launch, self._cgroups, limits)

    def _file_limit(self, shape: Shape) -> int:
        """What a monitor whose machine is not to be saved may write to one file."""
        version = Version.parse(self._settings.version)
        if version is not None and keeps_memory_in_file(version):
            return shape.memory_mib * MIB + MARGIN_BYTES
        return MARGIN_BYTES

    async def _spawn_boot(
        self, launch: CloudLaunch, spec: BootSpec, max_file_bytes: int
    ) -> CloudMachine:
        console_fd = launch.own(create_memfd(f"{spec.vm_id}-console"))
        # A machine that is reset would have it emptied first.
        fcntl.fcntl(console_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        launch.inherit(console_fd, configs.CONSOLE_FD)
        launch.inherit_file(spec.kernel, configs.KERNEL_FD)
        launch.inherit_file(spec.initrd, configs.INITRD_FD)
        launch.link(configs.KERNEL_NAME, configs.inherited(configs.KERNEL_FD))
        process = await self._run(launch, max_file_bytes)
        console = ConsoleLog(launch.keep(console_fd))
        return self._machine(launch, process, spec.machine, console)

    async def _spawn(self, launch: CloudLaunch, max_file_bytes: int) -> CloudMachine:
        return self._machine(launch, await self._run(launch, max_file_bytes), None, None)

    async def _run(self, launch: CloudLaunch, max_file_bytes: int) -> native.Process:
        request = native.SpawnRequest(
            executable=self._settings.binary,
            argv=configs.command_line(self._settings.installation, launch.vm_id),
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            fds=launch.inherited,
            output_fd=launch.log_fd,
            cgroup_fd=launch.cgroup_fd,
            max_file_bytes=max_file_bytes,
            user=launch.user,
        )
        return await native.run(
            lambda _cancel: native.spawn(request), discard=native.discard_process, pool=self._pool
        )

    def _machine(
        self,
        launch: CloudLaunch,
        process: native.Process,
        shape: Shape | None,
        console: ConsoleLog | None,
    ) -> CloudMachine:
        ticks = read_start_ticks(process.pid) or 0
        return CloudMachine(
            VmRecord(launch.vm_id, launch.run_dir, process.pid, ticks),
            process.pidfd,
            is_child=True,
            cgroups=self._cgroups,
            shape=shape,
            console=console,
        )

    async def _require_version(self, api: Api, progress: Progress) -> Version:
        """The release that a monitor is once it serves, which must be the one that we know."""
        ping = await api.ping(deadline_s=progress.left_s)
        version = Version.parse(ping.version)
        if ping.build_version != self._settings.version or version is None or version < OLDEST:
            raise ConfigError(
                ErrorCode.CONFIG_INVALID,
                f"it is {ping.build_version!r} ({ping.version}), not {self._settings.version!r}",
                hint="restart agentd after another Cloud Hypervisor was installed",
            )
        return version

    async def _boot(
        self, launch: CloudLaunch, api: Api, config: configs.Config, progress: Progress
    ) -> None:
        """Let a machine boot; once it runs there is no kernel, so that a reset ends it."""
        await self._require_version(api, progress)
        await api.create(config, deadline_s=progress.left_s)
        await api.boot(deadline_s=progress.left_s)
        launch.remove(configs.KERNEL_NAME)

    async def _start(self, machine: CloudMachine, prepare: bytes, progress: Progress) -> Started:
        """Give a guest that runs its identity. Nothing may be waited for once it has it, lest a
        machine that has started be lost by a cancellation.
        """
        calling = hybrid_vsock.connect(
            machine.channel_path, hybrid_vsock.GUEST_PORT, deadline_s=progress.left_s
        )
        sock = await unless_dead(machine, calling)
        try:
            started = await unless_dead(
                machine,
                start_guest(sock, prepare, deadline_ns=progress.deadline_ns, pool=self._pool),
            )
        except BaseException:
            sock.close()
            raise
        progress.reached("inject", started.ready_ns)
        progress.reached("guest_ready", started.started_ns)
        return Started(machine, started.channel, progress.stages_ms, progress.begun_ns)

    # -- freezing -------------------------------------------------------------------------

    async def checkpoint(self, vm: Vm, *, deadline_s: float) -> Checkpoint:
        """Freeze a booted machine, keep its state, end it; any failure ends it as well."""
        if not isinstance(vm, CloudMachine):
            raise InvariantError(f"asked Cloud Hypervisor to freeze {vm!r}, which is not its own")
        shape, progress = vm.take_shape(), Progress(deadline_s)
        what, user = f"freezing machine {vm.record.vm_id}", self._settings.user_of(vm.record.vm_id)
        try:
            with explained(vm.record.run_dir, what), translated(what, WRITING):
                size_bytes = shape.memory_mib * MIB
                memory_fd, state_fd = await freeze(vm, size_bytes, user, progress, self._pool)
        except BaseException:
            await vm.kill()
            raise
        return Checkpoint(memory_fd, state_fd, self.facts(shape), progress.stages_ms)

    # -- ending ---------------------------------------------------------------------------

    async def finish(self) -> None:
        """End the merging of what forks touched. Idempotent.

        Cancellation: it is ended all the same.
        """
        if self._paging is not None:
            await self._paging.working_sets.close()

    def close(self) -> None:
        """End the threads. Idempotent."""
        self._pool.shutdown()


@contextlib.asynccontextmanager
async def _starting(machine: CloudMachine) -> AsyncIterator[None]:
    """End a machine whose start fails, once it is known why."""
    what = f"starting machine {machine.record.vm_id}"
    try:
        with _with_console(machine), explained(machine.record.run_dir, what):
            yield
    except BaseException:
        await machine.kill()
        raise


@contextlib.asynccontextmanager
async def _served(clone: CloneStart) -> AsyncIterator[None]:
    """The page server need not wait for a clone that fails."""
    try:
        yield
    except BaseException:
        if clone.served is not None:
            await clone.served.give_up()
        raise


@contextlib.contextmanager
def _with_console(machine: CloudMachine) -> Iterator[None]:
    """Let failures of a boot say what the guest wrote to its console last."""
    try:
        yield
    except SnapStartError as exc:
        exc.message = add_console(exc.message, machine.booted_tail())
        exc.args = (exc.message,)
        raise
