"""Drive Cloud Hypervisor inside the outer machine: a template, forks in each mode, one report."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from agentd import native
from agentd.image import Image, load_image
from agentd.pager.client import PagerClient
from agentd.pager.working_sets import WorkingSets
from agentd.store.copier import CHUNK_BYTES, HASH_ONLY
from agentd.store.loaded import LoadedTemplate
from agentd.store.seal import SealRequest
from agentd.store.templates import TemplateStore
from agentd.vmm import hybrid_vsock
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.choose import choose_user
from agentd.vmm.cloud_hypervisor import CloudHypervisor, CloudHypervisorSettings
from agentd.vmm.cloud_hypervisor_restore import private_bytes
from agentd.vmm.cloud_hypervisor_versions import SHARING, RestoreMode
from agentd.vmm.guest import synchronise
from agentd.vmm.host import read_host_facts
from agentd.vmm.paging import Paging
from agentd.vmm.qemu_argv import KVM
from agentd.vmm.vmm import BootSpec, ForkSpec, Started, Vm
from agentd.warmfork import services
from agentd.warmfork.channel import GuestChannel
from agentd.warmfork.execution import execute
from agentd.warmfork.prepare import encode_prepare, new_identity
from agentd.wire import manifest as wire
from agentd.wire.guest import ExecuteRequest

BINARY = "/usr/bin/cloud-hypervisor"
PAGER = Path("/opt/snap-pager")
CONTROL = Path("/run/pager.sock")
IMAGE = Path("/opt/guest-image")
VMS = Path("/run/snapstart/vms")
DATA = Path("/var/lib/snapstart")
SHAPE = wire.Machine(memory_mib=512, vcpus=1)
# Emulated twice, this is some ten times slower than KVM on a processor that has it.
PATIENCE_S = 240.0
ASK = """
import json, os, socket, time, numpy
from pathlib import Path
had_mark = "mark" in globals()
mark = True
print(json.dumps({
    "sum": int(numpy.arange(1000).sum()),
    "urandom": os.urandom(16).hex(),
    "numpy_random": int(numpy.random.randint(1 << 62)),
    "hostname": socket.gethostname(),
    "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    "can_nest": bool({"svm", "vmx"} & set(Path("/proc/cpuinfo").read_text().split())),
    "time_s": time.time(),
    "had_mark": had_mark,
}))
"""
# No program to start with: the kernel panics, then resets the machine.
PANIC = "rdinit=/nonexistent init=/nonexistent panic=-1"


class Lab:
    """One driver of the program, machines of it."""

    def __init__(self) -> None:
        host = read_host_facts()
        version = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True)
        self.version = version.stdout.split()[1]
        self.settings = CloudHypervisorSettings(
            binary=BINARY,
            version=self.version,
            host_cpu=host.cpu,
            host_tsc_khz=host.tsc_khz,
            installation=secrets.token_hex(8),
            vms_dir=VMS,
            user_of=choose_user(1_900_000_000, host, os.geteuid(), KVM),
        )
        self.cgroups = CgroupTree.find(self.settings.installation)
        self.client = PagerClient(CONTROL)
        self.sets = WorkingSets(PAGER, 1 << 15, 1, tell)
        self.driver = self.open(can_fault=True)

    def open(self, **settings: Any) -> CloudHypervisor:
        """Another driver of the same machines, with the page server."""
        paging = Paging(self.client, self.sets, DATA / "templates")
        wish = replace(self.settings, **settings)
        return CloudHypervisor(wish, self.cgroups, paging=paging)

    @staticmethod
    def run_dir() -> tuple[str, Path]:
        vm_id = f"f-{secrets.token_hex(4)}"
        path = VMS / vm_id
        path.mkdir(mode=0o700, parents=True)
        return vm_id, path


def tell(event: str, /, **details: Any) -> None:
    """To the console, for whoever reads it."""
    print(f"drive: {time.monotonic():.1f} {event} {details or ''}", flush=True)


async def channel_of(vm: Vm) -> GuestChannel:
    """A connection of our own to a guest that runs."""
    sock = await hybrid_vsock.connect(
        vm.channel_path, hybrid_vsock.GUEST_PORT, deadline_s=PATIENCE_S
    )
    return await GuestChannel.over(await synchronise(sock), name=vm.record.vm_id)


async def build(
    lab: Lab, image: Image, store: TemplateStore, report: dict[str, Any]
) -> LoadedTemplate:
    """A template of the guest that we ship."""
    vm_id, run_dir = lab.run_dir()
    words = " ".join(image.manifest.cmdline)
    spec = BootSpec(vm_id, run_dir, image.kernel_path, image.initrd_path, words, SHAPE)
    vm = await lab.driver.boot(spec)
    report["booted_uid"] = os.stat(f"/proc/{vm.record.pid}").st_uid
    try:
        channel = await channel_of(vm)
        await services.take_baseline(channel, deadline_s=PATIENCE_S)
        await channel.close()
        report["console"] = await vm.console_tail(deadline_s=5)
        frozen = await lab.driver.checkpoint(vm, deadline_s=PATIENCE_S)
    except BaseException:
        report["console"] = await vm.console_tail(deadline_s=5)
        raise
    finally:
        await vm.kill()
    report["checkpoint_ms"] = dict(frozen.stages_ms)
    request = SealRequest(
        name="numpy",
        image=wire.ImageFacts(image.key, image.manifest.kernel_release),
        machine=SHAPE,
        vmm=frozen.facts,
        guest=wire.GuestFacts("1", "3.11", ()),
        memory_fd=frozen.memory_fd,
        state_fd=frozen.state_fd,
    )
    manifest = store.seal(request)
    return store.adopt_memfds(manifest, frozen.memory_fd, frozen.state_fd)


@asynccontextmanager
async def session(
    lab: Lab, driver: CloudHypervisor, template: LoadedTemplate
) -> AsyncIterator[tuple[Started, GuestChannel]]:
    """A fork with its channel, ended when the block is."""
    vm_id, run_dir = lab.run_dir()
    identity = encode_prepare(new_identity(vm_id, os.urandom), env={}, files={}, metadata={})
    started = await driver.fork(template, ForkSpec(vm_id, run_dir, identity), deadline_s=PATIENCE_S)
    try:
        channel = await GuestChannel.over(started.channel, name=vm_id)
        try:
            yield started, channel
        finally:
            await channel.close()
    finally:
        await started.vm.kill()


async def run(channel: GuestChannel, code: str) -> str:
    """What code prints."""
    request = ExecuteRequest(
        env={},
        max_output_bytes=1 << 20,
        max_result_bytes=1 << 20,
        execution_id=secrets.token_hex(4),
        code=code,
        timeout_s=None,
    )
    async with asyncio.timeout(PATIENCE_S), execute(channel, request) as events:
        seen = [event async for event in events]
    return "".join(getattr(event, "text", "") for event in seen)


async def describe(started: Started, channel: GuestChannel) -> dict[str, Any]:
    """What the kernel says of a fork's machine, what the machine says of itself."""
    pid = started.vm.record.pid
    began_s = time.time()
    answer = json.loads(await run(channel, ASK))
    return {
        "stages_ms": dict(started.stages_ms),
        "uid": os.stat(f"/proc/{pid}").st_uid,
        "private_bytes": private_bytes(pid),
        "answer": {**answer, "asked_between_s": [began_s, time.time()]},
    }


async def modes(lab: Lab, template: LoadedTemplate, report: dict[str, Any]) -> None:
    """A fork in each mode that this version has."""
    spoiled: set[RestoreMode] = set()
    for mode in (RestoreMode.MAPPED, RestoreMode.ON_DEMAND, RestoreMode.COPY):
        driver = lab.open(can_fault=True, user_of=lambda _vm_id: None)
        driver._restorer._spoiled |= spoiled | {RestoreMode.OFFLOAD}
        async with session(lab, driver, template) as (started, channel):
            report["modes"][mode.value] = await describe(started, channel)
        driver.close()
        spoiled.add(mode)
        tell(f"mode {mode} is over")


async def offload(lab: Lab, template: LoadedTemplate, report: dict[str, Any]) -> None:
    """A clone that is recorded, one with what was recorded, of users of their own."""
    os.chmod("/dev/userfaultfd", 0o666)  # as a machine's user has to be let
    driver = lab.open(can_fault=True)
    driver._restorer._spoiled |= SHARING
    for _ in range(2):
        async with session(lab, driver, template) as (started, channel):
            said = await describe(started, channel)
            stats = await lab.client.stats(deadline_s=PATIENCE_S)
            (facts,) = [one for one in stats.machines if one.vm == started.vm.record.vm_id]
            report["offloads"].append({**said, "served": to_builtins(facts)})
        tell("an offload is over")
        await until_merged()
    await driver.finish()
    driver.close()


async def until_merged() -> None:
    """Wait for the working set, which one record makes."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_merged():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.1)


def is_merged() -> bool:
    """Whether the template has a working set."""
    return bool(list(DATA.glob("templates/*/pages/*.set")))


async def forks(lab: Lab, template: LoadedTemplate, report: dict[str, Any]) -> None:
    """Two at once, one of them adopted by a successor."""
    async with session(lab, lab.driver, template) as (first, one):
        report["forks"].append(await describe(first, one))
        async with session(lab, lab.driver, template) as (second, two):
            report["forks"].append(await describe(second, two))
        await adopt(lab, first, one, report)


async def reset(lab: Lab, image: Image, report: dict[str, Any]) -> None:
    """A guest that resets its machine, and finds no kernel to boot again."""
    vm_id, run_dir = lab.run_dir()
    words = " ".join([*image.manifest.cmdline, PANIC])
    spec = BootSpec(vm_id, run_dir, image.kernel_path, image.initrd_path, words, SHAPE)
    vm = await lab.driver.boot(spec)
    ending = asyncio.create_task(vm.wait())
    await asyncio.wait({ending}, timeout=PATIENCE_S)
    report["reset"] = ending.result() if ending.done() else "it runs"
    report["reset_said"] = await vm.console_tail(deadline_s=5)
    ending.cancel()
    await vm.kill()


async def adopt(lab: Lab, first: Started, channel: GuestChannel, report: dict[str, Any]) -> None:
    await channel.close()
    successor = lab.open()
    assert successor.find_all() == [first.vm.record], successor.find_all()
    heir = successor.adopt(first.vm.record)
    assert heir is not None
    async with await channel_of(heir) as again:
        report["adopted"] = json.loads(await run(again, ASK))
    heir.release()
    successor.close()


def is_memory_as_sealed(template: LoadedTemplate) -> bool:
    """Whether the memory that forks map is still what was sealed."""
    memory = template.manifest.memory
    copied = native.copy_memory(template.memory_fd, HASH_ONLY, memory.size_bytes, CHUNK_BYTES)
    return copied.chunk_hashes == memory.chunk_hashes


async def serve_pages(lab: Lab) -> None:
    """Have a page server, with a supervisor that keeps what it holds."""
    os.mkdir("/run/pager", 0o700)
    argv = ["supervise", "--control", str(CONTROL), "--journal", "/run/pager"]
    await asyncio.create_subprocess_exec(PAGER, *argv)
    await lab.client.hello(deadline_s=PATIENCE_S)


async def exercise(report: dict[str, Any]) -> None:
    """All of it; the report grows on the way, so that a failure shows how far it came."""
    lab = Lab()
    lab.driver.check()
    report["version"] = lab.version
    report["can_offload"] = lab.driver._is_to_be_shared()
    await serve_pages(lab)
    image = load_image(str(IMAGE), Path("/tmp"))
    os.makedirs(DATA, mode=0o700)
    with TemplateStore(DATA, owner="inside", copier=native.copy_memory) as store:
        template = await build(lab, image, store, report)
        report["data_bytes"] = template.manifest.memory.data_bytes
        tell("the template is over")
        await forks(lab, template, report)
        tell("the forks are over")
        await modes(lab, template, report)
        if report["can_offload"]:
            await offload(lab, template, report)
        await reset(lab, image, report)
        tell("the reset is over")
        report["is_memory_as_sealed"] = is_memory_as_sealed(template)
        template.close()
    report["left"] = {
        "machines": [str(record) for record in lab.driver.find_all()],
        "directories": os.listdir(VMS),
        "cgroups": lab.cgroups.list_ids(),
    }
    lab.driver.close()


def main() -> None:
    """Print the report, whatever happens."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    report: dict[str, Any] = {
        "kernel": os.uname().release,
        "forks": [],
        "modes": {},
        "offloads": [],
    }
    try:
        asyncio.run(exercise(report))
    except BaseException as exc:
        traceback.print_exc()
        report["failure"] = f"{type(exc).__name__}: {exc}"
    print(f"<report>{json.dumps(report)}</report>", flush=True)


main()
