"""A VMM whose machines are real processes with a fake guest behind a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from agentd.errors import ConfigError, ErrorCode, PeerError
from agentd.store.loaded import LoadedTemplate
from agentd.units import MIB
from agentd.vmm.machine import LOG_FILE
from agentd.vmm.vmm import BootSpec, Checkpoint, Connected, ForkSpec, Started, VmRecord
from agentd.wire.manifest import Machine, VmmFacts

from .guest_channel import HELLO, HELLO_ACK, MARKER, frame

_PROGRAM = Path(__file__).with_name("vm_process.py")
_EPOCH = b"fake-vmm-epoch-0"


class FakeVm:
    """One such process. Implements `agentd.vmm.vmm.Vm`."""

    has_network_device = False
    channel_prelude = b""

    def __init__(self, record: VmRecord) -> None:
        self._record = record
        self._pidfd = os.pidfd_open(record.pid)
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end)

    @property
    def record(self) -> VmRecord:
        return self._record

    @property
    def channel_path(self) -> Path:
        return self._record.run_dir / "channel.sock"

    @property
    def is_running(self) -> bool:
        return not self._ended.done()

    async def wait(self) -> str:
        return await asyncio.shield(self._ended)

    async def kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self.wait()

    def release(self) -> None:
        self._close()

    async def console_tail(self, *, deadline_s: float) -> str:
        return "fake console"

    def _on_end(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._record.pid, 0)
        self._ended.set_result("the process ended")
        self._close()

    def _close(self) -> None:
        fd, self._pidfd = self._pidfd, -1
        if fd >= 0:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)


class FakeVmm:
    """Implements `agentd.vmm.vmm.Vmm`.

    faults: words for `vm_process`, read at each start; `gone`: the monitor is not there; `no_fork`:
    it forks nothing. delay_s: what a start takes beside; goes_on: cleared, none comes to its end.
    """

    def __init__(self, installation: str, vms_dir: Path) -> None:
        self._marker = f"fake-vm:{installation}:"
        self._vms_dir = vms_dir
        self.faults: set[str] = set()
        self.forgotten: list[str] = []
        self.delay_s = 0.0
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    def facts(self, machine: Machine) -> VmmFacts:
        return VmmFacts("fake", "1", "none", "none", "none", (), "none", 0)

    def check(self) -> None:
        if "gone" in self.faults:
            raise ConfigError(ErrorCode.MONITOR_MISSING, "checking the fake monitor: it is gone")

    async def boot(self, spec: BootSpec) -> FakeVm:
        vm = self._spawn(spec.vm_id, spec.run_dir, b"")
        vm.has_network_device = "network" in self.faults
        return vm

    async def boot_session(self, spec: BootSpec, prepare: bytes, *, deadline_s: float) -> Started:
        return await self._start(spec.vm_id, spec.run_dir, prepare, deadline_s)

    async def fork(self, template: LoadedTemplate, spec: ForkSpec, *, deadline_s: float) -> Started:
        os.fstat(template.memory_fd)
        if "no_fork" in self.faults:
            raise PeerError(ErrorCode.VMM_FAILED, "the fake monitor does not fork")
        return await self._start(spec.vm_id, spec.run_dir, spec.prepare, deadline_s)

    async def checkpoint(self, vm: FakeVm, *, deadline_s: float) -> Checkpoint:
        await vm.kill()
        memory_fd, state_fd = _memfd("memory", MIB), _memfd("state", 4096)
        return Checkpoint(memory_fd, state_fd, self.facts(Machine(1, 1)))

    def adopt(self, record: VmRecord) -> FakeVm | None:
        if record not in self.find_all():
            return None
        return FakeVm(record)

    def find_all(self) -> list[VmRecord]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                argv = process.cmdline()
                if len(argv) > 2 and argv[2].startswith(self._marker):
                    vm_id = argv[2].removeprefix(self._marker)
                    found.append(_record(vm_id, self._vms_dir / vm_id, process.pid))
        return found

    def forget(self, vm_id: str) -> None:
        self.forgotten.append(vm_id)

    def close(self) -> None:
        pass

    async def _start(self, vm_id: str, run_dir: Path, prepare: bytes, deadline_s: float) -> Started:
        vm = self._spawn(vm_id, run_dir, prepare)
        begun_ns = time.monotonic_ns()
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.sleep(self.delay_s)
                await self.goes_on.wait()
                sock = await _connect(vm)
        except TimeoutError as exc:
            await vm.kill()
            raise PeerError(ErrorCode.GUEST_NOT_READY, "the fake guest did not answer") from exc
        except BaseException:
            await vm.kill()
            raise
        stages = {"spawn": 1.0, "load": 2.0, "resume": 3.0, "guest_ready": 4.0, "inject": 5.0}
        return Started(vm, Connected(sock, _EPOCH, b"", 1), stages, begun_ns)

    def _spawn(self, vm_id: str, run_dir: Path, prepare: bytes) -> FakeVm:
        prepare_file = run_dir / "prepare"
        if prepare:
            prepare_file.write_bytes(prepare)
        with (run_dir / LOG_FILE).open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, str(_PROGRAM), self._marker + vm_id),
                    *(str(run_dir / "channel.sock"), str(prepare_file) if prepare else ""),
                    ",".join(self.faults),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        process.returncode = 0  # reaped by FakeVm, perhaps of another daemon
        _wait_shown(process.pid, self._marker)
        return FakeVm(_record(vm_id, run_dir, process.pid))


def _wait_shown(pid: int, marker: str) -> None:
    """execve(2) lets its parent go on a moment before /proc shows the new arguments."""
    cmdline = Path(f"/proc/{pid}/cmdline")
    while marker.encode() not in cmdline.read_bytes():
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)


async def _connect(vm: FakeVm) -> socket.socket:
    """A synchronised connection, owned by the caller."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        while True:
            if not vm.is_running:
                raise PeerError(ErrorCode.VMM_FAILED, "the fake machine ended")
            try:
                await loop.sock_connect(sock, str(vm.channel_path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.005)
        await loop.sock_sendall(sock, MARKER + frame(HELLO, 0, _EPOCH))
        answer = MARKER + frame(HELLO_ACK, 0, _EPOCH)
        received = b""
        while received != answer:
            received += await loop.sock_recv(sock, len(answer) - len(received))
    except BaseException:
        sock.close()
        raise
    return sock


def _record(vm_id: str, run_dir: Path, pid: int) -> VmRecord:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return VmRecord(vm_id, run_dir, pid, int(stat.rpartition(")")[2].split()[19]))


def _memfd(name: str, size_bytes: int) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    os.pwrite(fd, name.encode(), 0)
    return fd
