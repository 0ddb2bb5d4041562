"""What a test does with a Firecracker: boot, freeze, fork, talk to guests."""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from agentd import native
from agentd.store.loaded import LoadedTemplate
from agentd.units import MIB
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.firecracker import Firecracker
from agentd.vmm.paging import Paging
from agentd.vmm.vmm import BootSpec, Checkpoint, ForkSpec, Started
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.execution import execute
from agentd.warmfork.prepare import encode_prepare, new_identity
from agentd.wire.guest import ExecuteRequest
from agentd.wire.manifest import Machine as Shape
from agentd.wire.manifest import MemoryImage
from tests.fakes.firecracker import StandIn
from tests.unit.store.samples import MANIFEST

SHAPE = Shape(memory_mib=4, vcpus=1)
DEADLINE_S = 20.0


def prepare_of(session_id: str) -> bytes:
    """The body of PREPARE for a session of that name."""
    return encode_prepare(new_identity(session_id, os.urandom), {}, {}, {})


class World:
    """One driver of a stand-in, in a directory with short paths."""

    def __init__(self, root: Path, stand_in: StandIn) -> None:
        self.root = root
        self.stand_in = stand_in
        self.vms_dir = root / "vms"
        self.vms_dir.mkdir()
        self.kernel = root / "kernel"
        self.kernel.write_bytes(b"\x7fELF")
        self.installation = uuid.uuid4().hex
        self._drivers: list[Firecracker] = []
        self.driver = self.new_driver()

    def new_driver(
        self, cgroups: CgroupTree | None = None, paging: Paging | None = None, **settings: Any
    ) -> Firecracker:
        """Another one of the same installation, to be closed by `close`."""
        driver = self.stand_in.driver(self.vms_dir, self.installation, cgroups, paging, **settings)
        self._drivers.append(driver)
        return driver

    def close(self) -> None:
        """End the drivers' threads."""
        for driver in self._drivers:
            driver.close()

    def run_dir(self, vm_id: str) -> Path:
        """As the engine makes it."""
        path = self.vms_dir / vm_id
        path.mkdir(mode=0o700)
        return path

    def boot_spec(self, vm_id: str = "t-1", shape: Shape = SHAPE) -> BootSpec:
        """A machine to boot."""
        return BootSpec(vm_id, self.run_dir(vm_id), self.kernel, self.kernel, "quiet", shape)

    def fork_spec(self, vm_id: str = "s-1") -> ForkSpec:
        """A clone to start."""
        return ForkSpec(vm_id, self.run_dir(vm_id), prepare_of(vm_id))

    async def checkpoint(self, vm_id: str = "t-1") -> Checkpoint:
        """A machine that was booted, then frozen; owned by the caller."""
        machine = await self.driver.boot(self.boot_spec(vm_id))
        return await self.driver.checkpoint(machine, deadline_s=DEADLINE_S)

    @asynccontextmanager
    async def template(self, name: str = "python") -> AsyncIterator[LoadedTemplate]:
        """A template of this driver."""
        template = load(await self.checkpoint(), name)
        try:
            yield template
        finally:
            template.close()

    async def fork(self, template: LoadedTemplate, vm_id: str = "s-1") -> Started:
        """A clone that runs; owned by the caller."""
        return await self.driver.fork(template, self.fork_spec(vm_id), deadline_s=DEADLINE_S)


def load(saved: Checkpoint, name: str = "python") -> LoadedTemplate:
    """A template of what was saved, whose descriptors it owns."""
    size_bytes = os.fstat(saved.memory_fd).st_size
    copied = native.copy_memory(saved.memory_fd, -1, size_bytes)
    manifest = msgspec.structs.replace(
        MANIFEST,
        name=name,
        machine=Shape(size_bytes // MIB, 1),
        vmm=saved.facts,
        memory=MemoryImage(size_bytes, copied.data_bytes, native.CHUNK_BYTES, copied.chunk_hashes),
        device_state=msgspec.structs.replace(
            MANIFEST.device_state, size_bytes=os.fstat(saved.state_fd).st_size
        ),
    )
    return LoadedTemplate(manifest, saved.memory_fd, saved.state_fd)


def spoilt(template: LoadedTemplate, **facts: Any) -> LoadedTemplate:
    """The same with other facts; descriptors stay the first one's."""
    vmm = msgspec.structs.replace(template.manifest.vmm, **facts)
    return replace(template, manifest=msgspec.structs.replace(template.manifest, vmm=vmm))


@asynccontextmanager
async def talking(started: Started) -> AsyncIterator[GuestChannel]:
    """The channel of a machine that started; it is killed at the end."""
    try:
        channel = await GuestChannel.over(started.channel, name=started.vm.record.vm_id)
        async with channel:
            yield channel
    finally:
        await started.vm.kill()


async def run(channel: GuestChannel, code: str) -> str:
    """What a piece of code prints in the guest."""
    request = ExecuteRequest(
        execution_id=secrets.token_hex(4),
        code=code,
        timeout_s=None,
        max_output_bytes=MIB,
        max_result_bytes=MIB,
    )
    async with execute(channel, request) as events:
        return "".join([getattr(event, "text", "") async for event in events])
