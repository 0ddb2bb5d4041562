"""Drive Firecracker: boot, checkpoint, fork, adopt.

A monitor inherits all that it needs but its sockets: it makes those in a directory of its user. It
is never used twice: one that failed to load a snapshot ends itself, any other that failed is ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from typing import Final

from agentd import native
from agentd.errors import ConfigError, ErrorCode, InvariantError, SnapStartError
from agentd.store.failures import WRITING, translated
from agentd.store.loaded import LoadedTemplate
from agentd.store.memfd import check_sealed
from agentd.vmm import firecracker_config as configs
from agentd.vmm import hybrid_vsock
from agentd.vmm.adopting import Adopting
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.explain import add_console, read_log_tail
from agentd.vmm.find import Finder, named_by_first_word
from agentd.vmm.firecracker_api import Api, Load, check_supported
from agentd.vmm.firecracker_arrival import Arrivals
from agentd.vmm.firecracker_launch import FirecrackerLaunch
from agentd.vmm.firecracker_machine import FirecrackerMachine, SaveFiles
from agentd.vmm.firecracker_paging import Backend, open_backend
from agentd.vmm.firecracker_save import take_over
from agentd.vmm.firecracker_spawn import FirecrackerSettings, Spawner
from agentd.vmm.firecracker_versions import Version
from agentd.vmm.guest import start_guest
from agentd.vmm.limits import choose_limits
from agentd.vmm.paging import Paging
from agentd.vmm.require import KVM_DEVICE, require_access, require_compatible
from agentd.vmm.start import Progress, unless_dead
from agentd.vmm.vmm import BootSpec, Checkpoint, ForkSpec, Started, Vm
from agentd.wire.manifest import Machine as Shape
from agentd.wire.manifest import VmmFacts

ENGINE: Final = "firecracker"
DEFAULT_STARTS: Final = 4
# Threads beyond one for each start: a build takes one for its spawn, one for its checkpoint.
_BUILD_THREADS: Final = 2
_BOOT_S: Final = 30.0  # until a monitor has read the kernel


class Firecracker(Adopting[FirecrackerMachine]):
    """The Firecracker of this node. Implements `agentd.vmm.vmm.Vmm`.

    Starts block threads of their own for as long as they take, so that they do not keep what ends
    machines from the event loop's. starts: most machines that start at the same moment. paging: the
    page server, None if machines map files.
    """

    def __init__(
        self,
        settings: FirecrackerSettings,
        cgroups: CgroupTree,
        starts: int = DEFAULT_STARTS,
        paging: Paging | None = None,
    ) -> None:
        finder = Finder(
            settings.installation, settings.vms_dir, settings.user_of, named_by_first_word
        )
        super().__init__(FirecrackerMachine, finder, cgroups)
        self._settings = settings
        self._paging = paging
        self._arrivals = Arrivals()
        self._pool = native.full_pool(starts + _BUILD_THREADS, "vmm")
        self._spawner = Spawner(settings, cgroups, self._pool)

    def __repr__(self) -> str:
        return f"<Firecracker {self._settings.program.version}>"

    def facts(self, machine: Shape) -> VmmFacts:
        """What templates of this Firecracker depend on."""
        return VmmFacts(
            engine=ENGINE,
            version=self._settings.program.description,
            accel="kvm",
            machine_type=configs.MACHINE_TYPE,
            cpu=configs.CPU,
            device_argv=configs.device_argv(machine),
            host_cpu=self._settings.host,
            host_tsc_khz=self._settings.host_tsc_khz,
        )

    def check(self) -> None:
        """See whether the program, and the device it needs, are still there."""
        require_access(self, ((self._settings.binary, os.X_OK), (KVM_DEVICE, os.R_OK | os.W_OK)))

    # -- starting -------------------------------------------------------------------------

    async def boot(self, spec: BootSpec) -> FirecrackerMachine:
        """Start a machine from an image; returns once its monitor has begun to run it."""
        progress = Progress(_BOOT_S)
        limits = choose_limits(spec.machine, is_copied=True)
        with self._spawner.launch(spec, limits) as launch:
            machine = await self._spawner.start_to_boot(launch, spec, is_to_be_saved=True)
            async with self._starting(machine, progress) as api:
                await unless_dead(machine, self._boot(api, spec, progress))
        return machine

    async def boot_session(self, spec: BootSpec, prepare: bytes, *, deadline_s: float) -> Started:
        """Boot a machine cold, inject its identity, wait until it has started."""
        progress = Progress(deadline_s)
        limits = choose_limits(spec.machine)
        with self._spawner.launch(spec, limits) as launch:
            machine = await self._spawner.start_to_boot(launch, spec, is_to_be_saved=False)
            progress.reached("spawn")
            async with self._starting(machine, progress) as api:
                await unless_dead(machine, self._boot(api, spec, progress))
                progress.reached("load")
                progress.reached("resume")
                return await self._start(machine, prepare, progress)

    async def fork(self, template: LoadedTemplate, spec: ForkSpec, *, deadline_s: float) -> Started:
        """Start a copy-on-write copy of a template with an identity of its own."""
        progress = Progress(deadline_s)
        check_sealed(template)
        manifest = template.manifest
        require_compatible(self, manifest, self.facts(manifest.machine))
        limits = choose_limits(manifest.machine)
        with self._spawner.launch(spec, limits) as launch:
            launch.inherit(template.memory_fd, configs.MEMORY_FD)
            launch.inherit(template.state_fd, configs.STATE_FD)
            machine = await self._spawner.start(launch)
            progress.reached("spawn")
            async with (
                self._starting(machine, progress) as api,
                self._memory(template, launch, machine) as backend,
            ):
                await unless_dead(machine, self._load(api, backend, progress))
                started = await self._start(machine, spec.prepare, progress)
                machine.record_if_wanted(backend.served)
                return started

    @contextlib.asynccontextmanager
    async def _starting(
        self, machine: FirecrackerMachine, progress: Progress
    ) -> AsyncIterator[Api]:
        """The interface of a monitor once it serves; a failure ends the machine.

        Whoever has used it closes it, before there is anything that a cancellation could lose.
        """
        api = Api(machine.api_path)
        try:
            with _explained(machine, f"starting machine {machine.record.vm_id}"):
                arriving = self._arrivals.wait(machine.api_path, deadline_s=progress.left_s)
                await unless_dead(machine, arriving)
                yield api
        except BaseException:
            await machine.kill()
            raise
        finally:
            await api.close()

    @contextlib.asynccontextmanager
    async def _memory(
        self, template: LoadedTemplate, launch: FirecrackerLaunch, machine: FirecrackerMachine
    ) -> AsyncIterator[Backend]:
        """Where a clone's memory comes from; on a failure nobody waits for it any more."""
        backend = await open_backend(
            self._paging,
            launch,
            template.manifest,
            machine.record.pid,
            can_fault=self._settings.can_fault,
        )
        try:
            yield backend
        except BaseException:
            if backend.served is not None:
                await backend.served.give_up()
            raise

    async def _load(self, api: Api, backend: Backend, progress: Progress) -> None:
        """Let a clone run: at once if it maps a file, else when the page server has taken over."""
        order = Load(
            snapshot_path=configs.inherited(configs.STATE_FD),
            mem_backend=backend.order,
            resume_vm=backend.served is None,
        )
        check_supported(order, self._settings.program.version)
        await api.load(order, deadline_s=progress.left_s)
        progress.reached("load")
        if backend.served is not None:
            await backend.served.wait(deadline_s=progress.left_s)
            await api.resume(deadline_s=progress.left_s)
        progress.reached("resume")
        await api.close()

    async def _require_version(self, api: Api, progress: Progress) -> None:
        """Of the monitor that boots a machine: a template says who saved it."""
        told = (await api.describe(deadline_s=progress.left_s)).vmm_version
        if Version.parse(told) != self._settings.program.version:
            raise ConfigError(
                ErrorCode.CONFIG_INVALID,
                f"it is Firecracker {told!r}, not {self._settings.program.version}",
                hint="restart agentd after another Firecracker was installed",
            )

    async def _boot(self, api: Api, spec: BootSpec, progress: Progress) -> None:
        """Describe a machine, let it boot."""
        await self._require_version(api, progress)
        parts = {
            "machine-config": configs.machine_config(spec.machine),
            "boot-source": configs.boot_source(spec.cmdline),
            "vsock": configs.vsock(),
        }
        for what, order in parts.items():
            await api.configure(what, order, deadline_s=progress.left_s)
        await api.start(deadline_s=progress.left_s)
        await api.close()

    async def _start(
        self, machine: FirecrackerMachine, prepare: bytes, progress: Progress
    ) -> Started:
        """Give a guest that runs its identity."""
        calling = hybrid_vsock.connect(
            machine.channel_path, hybrid_vsock.GUEST_PORT, deadline_s=progress.left_s
        )
        sock = await unless_dead(machine, calling)
        try:
            giving = start_guest(sock, prepare, deadline_ns=progress.deadline_ns, pool=self._pool)
            started = await unless_dead(machine, giving)
        except BaseException:
            sock.close()
            raise
        progress.reached("inject", started.ready_ns)
        progress.reached("guest_ready", started.started_ns)
        return Started(machine, started.channel, progress.stages_ms, progress.begun_ns)

    # -- freezing -------------------------------------------------------------------------

    async def checkpoint(self, vm: Vm, *, deadline_s: float) -> Checkpoint:
        """Freeze a booted machine, keep its state, end it; any failure ends it as well."""
        if not isinstance(vm, FirecrackerMachine):
            raise InvariantError(f"asked Firecracker to freeze {vm!r}, which is not its own")
        saves = vm.take_saves()
        what = f"freezing machine {vm.record.vm_id}"
        try:
            with _explained(vm, what), translated(what, WRITING):
                return await self._freeze(vm, saves, Progress(deadline_s))
        except BaseException:
            await vm.kill()
            raise
        finally:
            saves.close()

    async def _freeze(
        self, vm: FirecrackerMachine, saves: SaveFiles, progress: Progress
    ) -> Checkpoint:
        await unless_dead(vm, _save(vm, progress))
        progress.reached("save")
        await vm.kill()  # from here on nobody writes to what was saved
        memory_fd, state_fd = await native.run(
            lambda cancel_fd: take_over(
                saves,
                vm.record.vm_id,
                deadline_ns=progress.deadline_ns,
                cancel_fd=cancel_fd,
            ),
            discard=_close_both,
            pool=self._pool,
        )
        progress.reached("keep")
        return Checkpoint(memory_fd, state_fd, self.facts(saves.shape), progress.stages_ms)

    # -- ending ---------------------------------------------------------------------------

    async def finish(self) -> None:
        """End the merging of what forks touched. Idempotent.

        Cancellation: it is ended all the same.
        """
        if self._paging is not None:
            await self._paging.working_sets.close()

    def close(self) -> None:
        """End the threads, the watch. Idempotent."""
        self._pool.shutdown()
        self._arrivals.close()


async def _save(vm: FirecrackerMachine, progress: Progress) -> None:
    """Stop a machine, have it written into what it inherited for that."""
    api = Api(vm.api_path)
    try:
        await api.pause(deadline_s=progress.left_s)
        progress.reached("stop")
        paths = configs.inherited(configs.STATE_FD), configs.inherited(configs.MEMORY_FD)
        await api.save(*paths, deadline_s=progress.left_s)
    finally:
        await api.close()


def _close_both(fds: tuple[int, int]) -> None:
    for fd in fds:
        os.close(fd)


@contextlib.contextmanager
def _explained(machine: FirecrackerMachine, what: str) -> Iterator[None]:
    """Let failures of the block say what the monitor logged, what is on the console."""
    try:
        yield
    except SnapStartError as exc:
        log = read_log_tail(machine.record.run_dir)
        message = f"{what}: {exc.message}" + (f"; the monitor said: {log}" if log else "")
        exc.message = add_console(message, machine.console_text())
        exc.args = (exc.message,)
        raise
