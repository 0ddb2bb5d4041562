"""Drive QEMU: boot, checkpoint, fork, adopt (QMP; docs/devel/migration of QEMU)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd import native
from agentd.errors import (
    ErrorCode,
    InvariantError,
    PeerError,
    SnapStartError,
)
from agentd.store.failures import WRITING, translated
from agentd.store.loaded import LoadedTemplate
from agentd.store.memfd import check_sealed, create_memfd, seal_memfd
from agentd.units import MIB
from agentd.vmm import qemu_argv
from agentd.vmm.adopting import Adopting
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.explain import add_console, explain
from agentd.vmm.find import Finder, named_by_option, read_start_ticks
from agentd.vmm.launch import opened
from agentd.vmm.limits import choose_limits
from agentd.vmm.machine import QMP_SOCKET, Booted, ConsoleLog, Machine
from agentd.vmm.qemu_launch import QemuLaunch
from agentd.vmm.require import KVM_DEVICE, require_access, require_compatible
from agentd.vmm.vmm import BootSpec, Checkpoint, Connected, ForkSpec, Started, Vm, VmRecord
from agentd.wire.manifest import Machine as Shape
from agentd.wire.manifest import VmmFacts

# What QEMU may write to one file: its log, the device state. RAM is a mapping, not a file write.
_MAX_FILE_BYTES: Final = 16 * MIB
# Of a machine that boots, because its console is written too; the device state takes under 1 MiB.
_MAX_BOOT_FILE_BYTES: Final = 4 * MIB
DEFAULT_STARTS: Final = 4
# Threads beyond one for each start: a build takes one for its spawn, one for its checkpoint.
_BUILD_THREADS: Final = 2
_NS_PER_MS: Final = 1e6


@dataclass(frozen=True)
class QemuSettings:
    """How to run QEMU on this host.

    binary: absolute path. version: what it says of itself. installation: marks the processes that
    are ours. vms_dir: holds each machine's run directory. user_of: who a machine runs as, None for
    the user of this process.
    """

    binary: str
    version: str
    accelerator: qemu_argv.Accelerator
    host_cpu: str
    host_tsc_khz: int
    installation: str
    vms_dir: Path
    user_of: Callable[[str], tuple[int, int] | None]


class Qemu(Adopting[Machine]):
    """The QEMU of this node. Implements `agentd.vmm.vmm.Vmm`.

    Starts block threads of their own for as long as they take, so that they do not keep what ends
    machines from the event loop's. starts: most machines that start at the same moment.
    """

    def __init__(
        self, settings: QemuSettings, cgroups: CgroupTree, starts: int = DEFAULT_STARTS
    ) -> None:
        user_of = settings.user_of
        finder = Finder(settings.installation, settings.vms_dir, user_of, named_by_option)
        super().__init__(Machine, finder, cgroups)
        self._settings = settings
        self._pool = native.full_pool(starts + _BUILD_THREADS, "vmm")

    def __repr__(self) -> str:
        return f"<Qemu {self._settings.version} {self._settings.accelerator.name}>"

    def facts(self, machine: Shape) -> VmmFacts:
        """What templates of this QEMU depend on."""
        accelerator = self._settings.accelerator
        return VmmFacts(
            engine="qemu",
            version=self._settings.version,
            accel=accelerator.name,
            machine_type=qemu_argv.MACHINE_TYPE,
            cpu=accelerator.cpu,
            device_argv=qemu_argv.device_argv(machine, accelerator),
            host_cpu=self._settings.host_cpu,
            host_tsc_khz=self._settings.host_tsc_khz,
        )

    def check(self) -> None:
        """See whether the program, and the device it needs, are still there."""
        needs = [(self._settings.binary, os.X_OK)]
        if self._settings.accelerator.name == "kvm":
            needs.append((KVM_DEVICE, os.R_OK | os.W_OK))
        require_access(self, needs)

    # -- starting -------------------------------------------------------------------------

    async def boot(self, spec: BootSpec) -> Machine:
        """Start a machine from an image; returns as soon as the process runs."""
        with self._launch(spec, spec.machine) as launch:
            request, boot = self._boot_request(launch, spec)
            process = await native.run(
                lambda _cancel: native.spawn(request),
                discard=native.discard_process,
                pool=self._pool,
            )
            launch.keep(boot.memory_fd)
            launch.keep(boot.console_fd)
        return self._machine(
            spec.vm_id, spec.run_dir, process, boot, Booted(boot.memory_fd, spec.machine)
        )

    async def boot_session(self, spec: BootSpec, prepare: bytes, *, deadline_s: float) -> Started:
        """Boot a machine cold, inject its identity, wait until it has started."""
        with self._launch(spec, spec.machine) as launch:
            request, boot = self._boot_request(launch, spec)
            return await self._start(launch, request, prepare, deadline_s, boot)

    async def fork(self, template: LoadedTemplate, spec: ForkSpec, *, deadline_s: float) -> Started:
        """Start a copy-on-write copy of a template with an identity of its own."""
        check_sealed(template)
        shape = template.manifest.machine
        require_compatible(self, template.manifest, self.facts(shape))
        with self._launch(spec, shape) as launch:
            launch.inherit(template.memory_fd, qemu_argv.MEMORY_FD)
            launch.inherit_reopened(template.state_fd, qemu_argv.STATE_FD)
            argv = qemu_argv.fork_argv(shape, self._settings.accelerator, self._name(spec.vm_id))
            request = self._request(launch, argv)
            return await self._start(launch, request, spec.prepare, deadline_s, None)

    def _name(self, vm_id: str) -> str:
        return qemu_argv.marker(self._settings.installation, vm_id)

    def _launch(
        self, spec: BootSpec | ForkSpec, shape: Shape
    ) -> contextlib.AbstractContextManager[QemuLaunch]:
        launch = QemuLaunch(spec.vm_id, spec.run_dir, self._settings.user_of(spec.vm_id))
        is_emulated = self._settings.accelerator == qemu_argv.TCG
        return opened(launch, self._cgroups, choose_limits(shape, is_emulated=is_emulated))

    def _boot_request(
        self, launch: QemuLaunch, spec: BootSpec
    ) -> tuple[native.SpawnRequest, _Boot]:
        memory_fd = launch.own(create_memfd(spec.vm_id))
        os.ftruncate(memory_fd, spec.machine.memory_mib * MIB)
        launch.inherit(memory_fd, qemu_argv.MEMORY_FD)
        console_fd = launch.own(create_memfd(f"{spec.vm_id}-console"))
        launch.inherit(console_fd, qemu_argv.CONSOLE_FD)
        launch.inherit_file(spec.kernel, qemu_argv.KERNEL_FD)
        launch.inherit_file(spec.initrd, qemu_argv.INITRD_FD)
        argv = qemu_argv.boot_argv(
            spec.machine, self._settings.accelerator, self._name(spec.vm_id), spec.cmdline
        )
        request = self._request(launch, argv, _MAX_BOOT_FILE_BYTES)
        return request, _Boot(memory_fd, console_fd, qemu_argv.has_network_device(argv))

    def _request(
        self, launch: QemuLaunch, argv: tuple[str, ...], max_file_bytes: int = _MAX_FILE_BYTES
    ) -> native.SpawnRequest:
        return native.SpawnRequest(
            executable=self._settings.binary,
            argv=(self._settings.binary, *argv),
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            fds=launch.inherited,
            output_fd=launch.log_fd,
            cgroup_fd=launch.cgroup_fd,
            max_file_bytes=max_file_bytes,
            user=launch.user,
        )

    async def _start(
        self,
        launch: QemuLaunch,
        spawn: native.SpawnRequest,
        prepare: bytes,
        deadline_s: float,
        boot: _Boot | None,
    ) -> Started:
        script = qemu_argv.fork_qmp_script() if boot is None else b""
        request = native.ForkRequest(
            spawn=spawn,
            qmp_fd=launch.qmp.fileno(),
            qmp_lines=script,
            qmp_replies=script.count(b"\n"),
            channel_fd=launch.channel.fileno(),
            prepare=prepare,
        )
        deadline_ns = native.deadline_after(deadline_s)
        with _with_console(boot), explain(launch.run_dir, f"starting machine {launch.vm_id}"):
            result = await native.run(
                lambda cancel_fd: native.fork(
                    request, deadline_ns=deadline_ns, cancel_fd=cancel_fd
                ),
                discard=native.discard_fork,
                pool=self._pool,
            )
        if boot is not None:
            launch.keep(boot.console_fd)
        machine = self._machine(launch.vm_id, launch.run_dir, result.process, boot)
        times = result.times
        return Started(machine, self._connected(launch, result), _stages_ms(times), times.begun_ns)

    @staticmethod
    def _connected(launch: QemuLaunch, result: native.ForkResult) -> Connected:
        return Connected(
            sock=launch.take_channel(),
            epoch=result.epoch,
            leftover=result.channel_pending,
            next_stream=native.NEXT_STREAM,
        )

    def _machine(
        self,
        vm_id: str,
        run_dir: Path,
        process: native.Process,
        boot: _Boot | None,
        booted: Booted | None = None,
    ) -> Machine:
        ticks = read_start_ticks(process.pid) or 0
        return Machine(
            VmRecord(vm_id, run_dir, process.pid, ticks),
            process.pidfd,
            is_child=True,
            cgroups=self._cgroups,
            booted=booted,
            console=None if boot is None else ConsoleLog(boot.console_fd),
            has_network_device=boot is not None and boot.has_network_device,
        )

    # -- freezing -------------------------------------------------------------------------

    async def checkpoint(self, vm: Vm, *, deadline_s: float) -> Checkpoint:
        """Freeze a booted machine, keep its state, end it; any failure ends it as well."""
        if not isinstance(vm, Machine):
            raise InvariantError(f"asked QEMU to freeze {vm!r}, which is not its own")
        booted = vm.take_memory()
        what = f"freezing machine {vm.record.vm_id}"
        try:
            with explain(vm.record.run_dir, what), translated(what, WRITING):
                return await self._freeze(vm, booted, deadline_s)
        except BaseException:
            os.close(booted.memory_fd)
            await vm.kill()
            raise

    async def _freeze(self, vm: Machine, booted: Booted, deadline_s: float) -> Checkpoint:
        state_fd = create_memfd(f"{vm.record.vm_id}-state")
        try:
            times = await self._save(vm.record, state_fd, deadline_s)
            # Sealing is refused while the machine still maps its memory shared.
            await vm.kill()
            seal_memfd(booted.memory_fd)
            seal_memfd(state_fd)
        except BaseException:
            os.close(state_fd)
            raise
        facts = self.facts(booted.shape)
        return Checkpoint(booted.memory_fd, state_fd, facts, _checkpoint_ms(times))

    async def _save(
        self, record: VmRecord, state_fd: int, deadline_s: float
    ) -> native.CheckpointTimes:
        deadline_ns = native.deadline_after(deadline_s)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as qmp:
            qmp.setblocking(False)  # of connect: a full backlog must not stop the event loop
            try:
                qmp.connect(str(record.run_dir / QMP_SOCKET))
            except OSError as exc:
                raise PeerError(ErrorCode.VMM_FAILED, f"connecting to its monitor: {exc}") from exc
            result = await native.run(
                lambda cancel_fd: native.checkpoint(
                    qmp.fileno(),
                    state_fd,
                    is_negotiated=False,
                    deadline_ns=deadline_ns,
                    cancel_fd=cancel_fd,
                ),
                pool=self._pool,
            )
        return result.times

    # -- ending ---------------------------------------------------------------------------

    def close(self) -> None:
        """End the threads. Idempotent."""
        self._pool.shutdown()


@dataclass(frozen=True)
class _Boot:
    """What a machine that boots has and a fork has not; both descriptors belong to its launch."""

    memory_fd: int
    console_fd: int
    has_network_device: bool


@contextlib.contextmanager
def _with_console(boot: _Boot | None) -> Iterator[None]:
    """Let failures of a boot say what the guest wrote to its console last."""
    try:
        yield
    except SnapStartError as exc:
        said = "" if boot is None else ConsoleLog(boot.console_fd).tail()
        exc.message = add_console(exc.message, said)
        exc.args = (exc.message,)
        raise


def _stages_ms(times: native.ForkTimes) -> Mapping[str, float]:
    """Milliseconds since the call began, when each stage was over.

    load: the device state is read; QEMU resumes the guest just before it says so. inject: the
    guest has accepted its identity. guest_ready: it has taken it on, so it runs code.
    """
    reached = {
        "spawn": times.spawned_ns,
        "load": min(times.loaded_ns, times.resumed_ns),
        "resume": times.resumed_ns,
        "inject": times.prepared_ns,
        "guest_ready": times.started_ns,
    }
    return {stage: (at - times.begun_ns) / _NS_PER_MS for stage, at in reached.items()}


def _checkpoint_ms(times: native.CheckpointTimes) -> Mapping[str, float]:
    reached = {"stop": times.stopped_ns, "save": times.migrated_ns}
    return {stage: (at - times.begun_ns) / _NS_PER_MS for stage, at in reached.items()}
