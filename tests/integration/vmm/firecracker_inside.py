"""Drive the real Firecracker inside the outer machine: boot, freeze, fork, serve; one report."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from agentd import native
from agentd.errors import SnapStartError
from agentd.image import load_image
from agentd.pager.client import PagerClient
from agentd.pager.working_sets import WorkingSets
from agentd.store.loaded import LoadedTemplate
from agentd.store.memfd import create_memfd, seal_memfd
from agentd.units import MIB
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.choose import choose_user
from agentd.vmm.feature_gate import name_host
from agentd.vmm.firecracker import Firecracker
from agentd.vmm.firecracker_spawn import FirecrackerSettings
from agentd.vmm.firecracker_versions import probe_program
from agentd.vmm.host import read_host_facts
from agentd.vmm.paging import Paging
from agentd.vmm.qemu_argv import KVM
from agentd.vmm.vmm import BootSpec, ForkSpec, Started
from agentd.warmfork import services
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.execution import execute
from agentd.warmfork.prepare import encode_prepare, new_identity
from agentd.wire import manifest as wire
from agentd.wire.guest import ExecuteRequest

BINARY = "/opt/firecracker"
PAGER = Path("/opt/snap-pager")
IMAGE = Path("/opt/guest-image")
RUN_DIR = Path("/run/snapstart/vms")
TEMPLATES = Path("/run/snapstart/templates")  # on a tmpfs, as all here
SHAPE = wire.Machine(memory_mib=512, vcpus=1)
UID_BASE = 1_900_000_000
# Emulated twice: a processor that has KVM is some hundred times faster.
PATIENCE_S = 240.0
ASK = """
import json, os, socket, time, numpy
clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
had_mark = "mark" in globals()
mark = True
print(json.dumps({
    "sum": int(numpy.arange(1000).sum()),
    "urandom": os.urandom(16).hex(),
    "numpy_random": int(numpy.random.randint(1 << 62)),
    "hostname": socket.gethostname(),
    "clocksource": open(clock).read().strip(),
    "time_s": time.time(),
    "had_mark": had_mark,
}))
"""


def tell(stage: str) -> None:
    """How far it is, on the console."""
    print(f"drive: {time.clock_gettime(time.CLOCK_BOOTTIME):.1f} {stage}", flush=True)


class Bench:
    """What the exercise works with."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        self.image = load_image(str(IMAGE), cache_dir=IMAGE.parent)
        host = read_host_facts()
        self.program = probe_program(BINARY)
        self.settings = FirecrackerSettings(
            binary=BINARY,
            program=self.program,
            host=name_host(host.cpu, os.uname().release),
            host_tsc_khz=host.tsc_khz,
            installation=uuid.uuid4().hex,
            vms_dir=RUN_DIR,
            user_of=choose_user(UID_BASE, host, 0, KVM),
        )
        report["program"] = self.program.description
        report["host"] = self.settings.host

    def driver(self, paging: Paging | None = None, **settings: Any) -> Firecracker:
        """As the daemon would open it."""
        cgroups = CgroupTree.find(self.settings.installation)
        return Firecracker(replace(self.settings, **settings), cgroups, paging=paging)

    @staticmethod
    def run_dir(vm_id: str) -> Path:
        """As the engine makes it."""
        path = RUN_DIR / vm_id
        path.mkdir(mode=0o700)
        return path

    def boot_spec(self, vm_id: str) -> BootSpec:
        """Our guest."""
        return BootSpec(
            vm_id,
            self.run_dir(vm_id),
            self.image.kernel_path,
            self.image.initrd_path,
            " ".join(self.image.manifest.cmdline),
            SHAPE,
        )

    def fork_spec(self, vm_id: str) -> ForkSpec:
        """A clone of it."""
        return ForkSpec(vm_id, self.run_dir(vm_id), prepare_of(vm_id))


def prepare_of(vm_id: str) -> bytes:
    """An identity."""
    return encode_prepare(new_identity(vm_id, os.urandom), {}, {}, {})


async def build(bench: Bench, driver: Firecracker) -> LoadedTemplate:
    """A template as the engine builds it; its memory is on disk as well."""
    vm = await driver.boot(bench.boot_spec("t-1"))
    tell("the guest boots")
    try:
        connecting = GuestChannel.connect(
            vm.channel_path, deadline_s=PATIENCE_S, prelude=vm.channel_prelude
        )
        channel = await until_dead(vm, connecting)
        tell("the guest is warm")
        await services.take_baseline(channel, deadline_s=PATIENCE_S)
        await channel.close()
        frozen = await driver.checkpoint(vm, deadline_s=PATIENCE_S)
    finally:
        await vm.kill()
    bench.report["checkpoint_ms"] = dict(frozen.stages_ms)
    size_bytes = SHAPE.memory_mib * MIB
    directory = TEMPLATES / "numpy"
    directory.mkdir(parents=True, mode=0o700)
    with (directory / "memory").open("wb") as file:
        copied = native.copy_memory(frozen.memory_fd, file.fileno(), size_bytes)
    state_bytes = os.fstat(frozen.state_fd).st_size
    manifest = wire.Manifest(
        format_version=wire.format_for(None),
        template_id=str(uuid.uuid4()),
        name="numpy",
        owner="test",
        created_at="2026-01-01T00:00:00Z",
        image=wire.ImageFacts(bench.image.key, bench.image.manifest.kernel_release),
        machine=SHAPE,
        vmm=frozen.facts,
        guest=wire.GuestFacts("1", "3.11", ()),
        memory=wire.MemoryImage(
            size_bytes, copied.data_bytes, native.CHUNK_BYTES, copied.chunk_hashes
        ),
        device_state=wire.DeviceState(state_bytes, "00" * 32),
    )
    return LoadedTemplate(manifest, frozen.memory_fd, frozen.state_fd)


async def until_dead(vm: Any, work: Any) -> Any:
    """A result, or the console of a machine that ended before."""
    doing, dying = asyncio.ensure_future(work), asyncio.ensure_future(vm.wait())
    await asyncio.wait({doing, dying}, return_when=asyncio.FIRST_COMPLETED)
    if not doing.done() or doing.exception() is not None:
        tell("its console: " + await vm.console_tail(deadline_s=1))
        doing.cancel()
    if dying.done():
        tell(f"it {dying.result()}")
    dying.cancel()
    return await doing


async def ask(channel: GuestChannel) -> dict[str, Any]:
    """What a guest answers, between which times of its host."""
    request = ExecuteRequest(secrets.token_hex(4), ASK, None, MIB, MIB)
    began_s = time.time()
    async with execute(channel, request) as events:
        text = "".join([getattr(event, "text", "") async for event in events])
    return {**json.loads(text), "asked_between_s": [began_s, time.time()]}


@asynccontextmanager
async def forked(
    bench: Bench, driver: Firecracker, template: LoadedTemplate, vm_id: str
) -> AsyncIterator[tuple[Started, GuestChannel]]:
    """A clone, killed at the end."""
    started = await driver.fork(template, bench.fork_spec(vm_id), deadline_s=PATIENCE_S)
    try:
        channel = await GuestChannel.over(started.channel, name=vm_id)
        async with channel:
            yield started, channel
    finally:
        await started.vm.kill()


def describe(started: Started, answer: dict[str, Any]) -> dict[str, Any]:
    """What the kernel says of a clone's process, what the guest says of itself."""
    pid = started.vm.record.pid
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return {
        "session": started.vm.record.vm_id,
        "stages_ms": dict(started.stages_ms),
        "uid": os.stat(f"/proc/{pid}").st_uid,
        "has_kvm": any("kvm-vcpu" in link for link in links),
        "has_uffd": any("userfaultfd" in link for link in links),
        "answer": answer,
    }


async def by_file(bench: Bench, driver: Firecracker, template: LoadedTemplate) -> None:
    """Two clones at once that map the sealed image; one that is adopted; one that is refused."""
    async with (
        forked(bench, driver, template, "s-1") as (first, one),
        forked(bench, driver, template, "s-2") as (second, other),
    ):
        bench.report["forks"] = [
            describe(first, await ask(one)),
            describe(second, await ask(other)),
        ]
        await one.close()
        adopted = driver.adopt(first.vm.record)
        assert adopted is not None
        bench.report["found"] = sorted(record.vm_id for record in driver.find_all())
        again = await GuestChannel.connect(
            adopted.channel_path, deadline_s=PATIENCE_S, prelude=adopted.channel_prelude
        )
        async with again:
            bench.report["adopted"] = await ask(again)
        adopted.release()
    tell("clones that map the image are over")
    bench.report["is_memory_as_sealed"] = (
        native.copy_memory(template.memory_fd, -1, SHAPE.memory_mib * MIB).chunk_hashes
        == template.manifest.memory.chunk_hashes
    )


async def refused(bench: Bench, driver: Firecracker, template: LoadedTemplate) -> None:
    """A state that was damaged: what is said, what is left."""
    data = bytearray(os.pread(template.state_fd, 1 << 24, 0))
    data[len(data) // 2] ^= 1
    fd = sealed(bytes(data))
    damaged = replace(template, state_fd=fd)
    try:
        await driver.fork(damaged, bench.fork_spec("s-3"), deadline_s=PATIENCE_S)
    except SnapStartError as exc:
        bench.report["refusal"] = {"code": exc.code.value, "message": exc.message}
    finally:
        os.close(fd)


def sealed(data: bytes) -> int:
    """A sealed memfd with these bytes; owned by the caller."""
    fd = create_memfd("damaged")
    os.write(fd, data)
    seal_memfd(fd)
    return fd


async def panicked(bench: Bench, driver: Firecracker) -> None:
    """A guest without a PID 1: its kernel resets the machine."""
    spec = bench.boot_spec("t-2")
    vm = await driver.boot(replace(spec, cmdline=spec.cmdline.replace("/init", "/none")))
    async with asyncio.timeout(PATIENCE_S):
        how = await vm.wait()
    bench.report["panic"] = {"how": how, "console": await vm.console_tail(deadline_s=1)}
    await vm.kill()


class PageServer:
    """snap-pager, killed and begun again at will."""

    control = Path("/run/pager.sock")

    def start(self) -> None:
        """Another one."""
        argv = [str(PAGER), "serve", "--control", str(self.control), "--journal", "/run/pager"]
        self.process = subprocess.Popen(argv)

    def kill(self) -> None:
        """As the kernel would for want of memory."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


async def by_page_server(bench: Bench, template: LoadedTemplate) -> None:
    """A clone that is recorded, one with the working set; the page server dies under the second."""
    os.chmod("/dev/userfaultfd", 0o666)  # as a machine's user has to be let
    os.mkdir("/run/pager", 0o700)
    server = PageServer()
    server.start()
    client = PagerClient(PageServer.control)
    await client.hello(deadline_s=PATIENCE_S)
    sets = WorkingSets(PAGER, 1 << 15, 1, lambda event, **details: tell(f"{event} {details}"))
    driver = bench.driver(Paging(client, sets, TEMPLATES), can_fault=True)
    served: list[dict[str, Any]] = []
    for vm_id in ("s-4", "s-5"):
        async with forked(bench, driver, template, vm_id) as (started, channel):
            said = describe(started, await ask(channel))
            stats = await client.stats(deadline_s=PATIENCE_S)
            said["served"] = [msgspec.to_builtins(one) for one in stats.machines]
            if vm_id == "s-5":
                server.kill()
                server.start()
                said["after_death"] = await ask(channel)
            served.append(said)
        tell(f"{vm_id} is over")
        await asyncio.to_thread(until_merged)
    bench.report["served"] = served
    await sets.close()
    driver.close()
    server.kill()


def until_merged() -> None:
    """Until the first record is a working set."""
    ends_s = time.monotonic() + PATIENCE_S
    while not list(TEMPLATES.glob("*/pages/*.set")) and time.monotonic() < ends_s:
        time.sleep(0.2)


async def exercise(bench: Bench) -> None:
    """All of it; the report grows on the way, so that a failure shows how far it came."""
    driver = bench.driver()
    template = await build(bench, driver)
    bench.report["vmm"] = msgspec.to_builtins(template.manifest.vmm)
    bench.report["data_bytes"] = template.manifest.memory.data_bytes
    tell("the template is there")
    try:
        await by_file(bench, driver, template)
        await refused(bench, driver, template)
        await panicked(bench, driver)
        await by_page_server(bench, template)
    finally:
        template.close()
        driver.close()
    bench.report["left"] = left_behind(bench)


def left_behind(bench: Bench) -> dict[str, list[str]]:
    """What is still there of machines when all have ended, and the next daemon has begun: a group
    that could not be removed at once is removed then, if it is empty.
    """
    CgroupTree.find(bench.settings.installation).remove_empty()
    driver = bench.driver()
    records = driver.find_all()
    driver.close()
    return {
        "machines": [record.vm_id for record in records],
        "directories": os.listdir(RUN_DIR),
        "cgroups": [path.name for path in Path("/sys/fs/cgroup").glob("**/snapstart-*")],
    }


def main() -> None:
    """Print the report, whatever happens."""
    report: dict[str, Any] = {"kernel": os.uname().release}
    RUN_DIR.mkdir(parents=True, mode=0o700)
    try:
        asyncio.run(exercise(Bench(report)))
    except BaseException as exc:
        traceback.print_exc()
        report["failure"] = f"{type(exc).__name__}: {exc}"
    print(f"<report>{json.dumps(report)}</report>", flush=True)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main()
