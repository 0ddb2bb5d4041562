"""Build templates with the real driver; start, ask, describe forks of them."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agentd.image import Image
from agentd.store.loaded import LoadedTemplate
from agentd.store.memfd import create_memfd, seal_memfd
from agentd.store.seal import SealRequest
from agentd.store.templates import TemplateStore
from agentd.vmm.machine import Machine
from agentd.vmm.qemu import Qemu
from agentd.vmm.vmm import BootSpec, ForkSpec, Started
from agentd.warmfork import services
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.execution import execute
from agentd.warmfork.prepare import encode_prepare, new_identity
from agentd.wire import manifest as wire
from agentd.wire.guest import ExecuteRequest

SHAPE = wire.Machine(memory_mib=512, vcpus=1)
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Lab:
    """Starts machines of one QEMU, each in a run directory of its own."""

    qemu: Qemu
    vms_dir: Path

    def new_vm(self) -> tuple[str, Path]:
        """A fresh id with its run directory."""
        vm_id = f"f-{secrets.token_hex(4)}"
        run_dir = self.vms_dir / vm_id
        run_dir.mkdir(mode=0o700)
        return vm_id, run_dir

    def boot_spec(self, image: Image, cmdline: str = "") -> BootSpec:
        vm_id, run_dir = self.new_vm()
        words = " ".join([*image.manifest.cmdline, *cmdline.split()])
        return BootSpec(vm_id, run_dir, image.kernel_path, image.initrd_path, words, SHAPE)

    async def boot(self, image: Image) -> Machine:
        return await self.qemu.boot(self.boot_spec(image))

    def fork_spec(self, env: Mapping[str, str] | None = None) -> ForkSpec:
        vm_id, run_dir = self.new_vm()
        return ForkSpec(vm_id, run_dir, prepare_of(vm_id, env))

    async def fork(
        self,
        template: LoadedTemplate,
        env: Mapping[str, str] | None = None,
        *,
        deadline_s: float = DEADLINE_S,
    ) -> Started:
        """Start a fork; the caller ends it."""
        return await self.qemu.fork(template, self.fork_spec(env), deadline_s=deadline_s)

    @asynccontextmanager
    async def session(self, template: LoadedTemplate) -> AsyncIterator[Session]:
        """A fork with its channel, ended when the block is."""
        started = await self.fork(template)
        try:
            channel = await GuestChannel.over(started.channel, name=started.vm.record.vm_id)
            try:
                yield Session(started, channel)
            finally:
                await channel.close()
        finally:
            await started.vm.kill()

    def leftovers(self, vm_id: str) -> list[str]:
        """What of a machine is still there: processes, control groups."""
        left = [f"process {r.pid}" for r in self.qemu.find_all() if r.vm_id == vm_id]
        left += [f"cgroup {name}" for name in self.qemu._cgroups.list_ids() if name == vm_id]
        return left


@dataclass(frozen=True)
class Session:
    """A fork to talk to."""

    started: Started
    channel: GuestChannel

    async def run(self, code: str) -> str:
        """What a line of code prints."""
        request = ExecuteRequest(
            env={},
            max_output_bytes=1 << 20,
            max_result_bytes=1 << 20,
            execution_id=secrets.token_hex(4),
            code=code,
            timeout_s=None,
        )
        async with execute(self.channel, request) as events:
            seen = [event async for event in events]
        return "".join(getattr(event, "text", "") for event in seen)


def prepare_of(vm_id: str, env: Mapping[str, str] | None = None) -> bytes:
    """An identity for a machine."""
    return encode_prepare(new_identity(vm_id, os.urandom), env=env or {}, files={}, metadata={})


async def freeze_real(lab: Lab, image: Image, store: TemplateStore, name: str) -> LoadedTemplate:
    """A template of the guest that we ship."""
    vm = await lab.boot(image)
    try:
        channel = await GuestChannel.connect(vm.channel_path, deadline_s=DEADLINE_S)
        await services.take_baseline(channel, deadline_s=DEADLINE_S)
        await channel.close()
        return await freeze(lab, vm, image, store, name)
    finally:
        await vm.kill()


async def wait_for_console(vm: Machine, words: str) -> str:
    """The console's tail once it ends with these words."""
    async with asyncio.timeout(DEADLINE_S):
        while not (tail := await vm.console_tail(deadline_s=5)).rstrip().endswith(words):
            assert vm.is_running
            await asyncio.sleep(0.1)
    return tail


async def freeze(
    lab: Lab, vm: Machine, image: Image, store: TemplateStore, name: str
) -> LoadedTemplate:
    """Checkpoint a machine, seal it on disk."""
    frozen = await lab.qemu.checkpoint(vm, deadline_s=DEADLINE_S)
    request = SealRequest(
        name=name,
        image=wire.ImageFacts(image.key, image.manifest.kernel_release),
        machine=SHAPE,
        vmm=frozen.facts,
        guest=wire.GuestFacts("1", "3.11", ()),
        memory_fd=frozen.memory_fd,
        state_fd=frozen.state_fd,
    )
    manifest = store.seal(request)
    return store.adopt_memfds(manifest, frozen.memory_fd, frozen.state_fd)


def sealed(data: bytes, size_bytes: int | None = None) -> int:
    """A sealed memfd with these bytes, then zeros; owned by the caller."""
    fd = create_memfd("test")
    os.ftruncate(fd, len(data) if size_bytes is None else size_bytes)
    os.pwrite(fd, data, 0)
    seal_memfd(fd)
    return fd


def read_state(template: LoadedTemplate) -> bytes:
    """The device state of a template."""
    return os.pread(template.state_fd, template.manifest.device_state.size_bytes, 0)


def with_state(template: LoadedTemplate, state: bytes) -> LoadedTemplate:
    """The template with another device state; the caller closes its state_fd."""
    facts = msgspec.structs.replace(template.manifest.device_state, size_bytes=len(state))
    manifest = msgspec.structs.replace(template.manifest, device_state=facts)
    return LoadedTemplate(manifest, template.memory_fd, sealed(state))


def with_facts(template: LoadedTemplate, **facts: object) -> LoadedTemplate:
    """The template as another monitor would have made it; borrows the memory."""
    vmm = msgspec.structs.replace(template.manifest.vmm, **facts)
    manifest = msgspec.structs.replace(template.manifest, vmm=vmm)
    return LoadedTemplate(manifest, template.memory_fd, template.state_fd)
