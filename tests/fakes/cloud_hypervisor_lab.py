"""Build templates with the driver and the stand-in; start, ask forks of them."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from agentd import native
from agentd.store.copier import CHUNK_BYTES, HASH_ONLY
from agentd.store.loaded import LoadedTemplate
from agentd.units import MIB
from agentd.vmm import hybrid_vsock
from agentd.vmm.cloud_hypervisor import CloudHypervisor
from agentd.vmm.cloud_hypervisor_machine import CloudMachine
from agentd.vmm.guest import synchronise
from agentd.vmm.vmm import BootSpec, Checkpoint, ForkSpec, Started
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.execution import execute
from agentd.warmfork.prepare import encode_prepare, new_identity
from agentd.wire.guest import ExecuteRequest
from agentd.wire.manifest import DeviceState, Machine, MemoryImage
from tests.fakes.cloud_hypervisor import StandIn
from tests.unit.store.samples import MANIFEST

SHAPE = Machine(memory_mib=4, vcpus=1)
DEADLINE_S = 30.0


class Lab:
    """One driver of one stand-in. Use in `with`; machines are the test's to end."""

    def __init__(self, launcher: Path, directory: Path, version: str = "v53.0", **drive: Any):
        self.directory = directory
        self.stand_in = StandIn(launcher, directory / "bin", version)
        self.vms_dir = directory / "vms"
        self.vms_dir.mkdir()
        self.kernel = directory / "kernel"
        self.kernel.write_text("kernel")
        self.installation = secrets.token_hex(8)
        self.driver: CloudHypervisor = self.open(**drive)

    def open(self, **drive: Any) -> CloudHypervisor:
        """Another driver of the same machines; the caller closes it."""
        return self.stand_in.driver(self.vms_dir, self.installation, **drive)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.close()

    def new_vm(self) -> tuple[str, Path]:
        """A fresh id with its run directory."""
        vm_id = f"f-{secrets.token_hex(4)}"
        run_dir = self.vms_dir / vm_id
        run_dir.mkdir(mode=0o700)
        return vm_id, run_dir

    def boot_spec(self, shape: Machine = SHAPE) -> BootSpec:
        vm_id, run_dir = self.new_vm()
        return BootSpec(vm_id, run_dir, self.kernel, self.kernel, "quiet", shape)

    def fork_spec(self, env: Mapping[str, str] | None = None) -> ForkSpec:
        vm_id, run_dir = self.new_vm()
        return ForkSpec(vm_id, run_dir, prepare_of(vm_id, env))

    async def boot(self, shape: Machine = SHAPE) -> CloudMachine:
        return await self.driver.boot(self.boot_spec(shape))

    async def freeze(self, shape: Machine = SHAPE) -> LoadedTemplate:
        """A template of a machine that was booted; the caller closes it."""
        vm = await self.boot(shape)
        return loaded(await self.driver.checkpoint(vm, deadline_s=DEADLINE_S), shape)

    async def fork(
        self, template: LoadedTemplate, driver: CloudHypervisor | None = None
    ) -> Started:
        """The caller closes its socket, ends its machine."""
        chosen = driver or self.driver
        return await chosen.fork(template, self.fork_spec(), deadline_s=DEADLINE_S)

    @asynccontextmanager
    async def session(
        self, template: LoadedTemplate, driver: CloudHypervisor | None = None
    ) -> AsyncIterator[Session]:
        """A fork with its channel, ended when the block is."""
        started = await self.fork(template, driver)
        try:
            async with await GuestChannel.over(started.channel, name="fork") as channel:
                yield Session(started, channel)
        finally:
            await started.vm.kill()

    def left(self) -> list[str]:
        """What of machines is still there."""
        running = [f"process {record.pid}" for record in self.driver.find_all()]
        return running + [path.name for path in self.vms_dir.iterdir()]


class Session:
    """A fork to talk to."""

    def __init__(self, started: Started, channel: GuestChannel) -> None:
        self.started = started
        self.channel = channel

    @property
    def vm(self) -> CloudMachine:
        assert isinstance(self.started.vm, CloudMachine)
        return self.started.vm

    async def run(self, code: str) -> str:
        return await run(self.channel, code)


async def run(channel: GuestChannel, code: str) -> str:
    """What code prints in a guest; `guest` is the stand-in's own."""
    request = ExecuteRequest(
        env={},
        max_output_bytes=MIB,
        max_result_bytes=MIB,
        execution_id=secrets.token_hex(4),
        code=code,
        timeout_s=None,
    )
    async with execute(channel, request) as events:
        seen = [event async for event in events]
    return "".join(getattr(event, "text", "") for event in seen)


async def connect(vm: CloudMachine) -> GuestChannel:
    """A host's connection to a guest that runs."""
    sock = await hybrid_vsock.connect(
        vm.channel_path, hybrid_vsock.GUEST_PORT, deadline_s=DEADLINE_S
    )
    return await GuestChannel.over(await synchronise(sock), name=vm.record.vm_id)


def prepare_of(vm_id: str, env: Mapping[str, str] | None = None) -> bytes:
    """An identity for a machine."""
    return encode_prepare(new_identity(vm_id, os.urandom), env=env or {}, files={}, metadata={})


def loaded(frozen: Checkpoint, shape: Machine = SHAPE) -> LoadedTemplate:
    """A checkpoint as the store would load it."""
    size_bytes = os.fstat(frozen.memory_fd).st_size
    copied = native.copy_memory(frozen.memory_fd, HASH_ONLY, size_bytes, CHUNK_BYTES)
    memory = MemoryImage(size_bytes, copied.data_bytes, CHUNK_BYTES, copied.chunk_hashes)
    state = DeviceState(os.fstat(frozen.state_fd).st_size, "ab" * 32)
    manifest = msgspec.structs.replace(
        MANIFEST,
        template_id=secrets.token_hex(16),
        machine=shape,
        vmm=frozen.facts,
        memory=memory,
        device_state=state,
    )
    return LoadedTemplate(manifest, frozen.memory_fd, frozen.state_fd)


def is_as_sealed(template: LoadedTemplate) -> bool:
    """Whether a template's memory is still what it was when it was loaded."""
    memory = template.manifest.memory
    copied = native.copy_memory(template.memory_fd, HASH_ONLY, memory.size_bytes, CHUNK_BYTES)
    return copied.chunk_hashes == memory.chunk_hashes
