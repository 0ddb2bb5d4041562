"""Starts that fail: every descriptor, process, group is given back."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agentd.errors import (
    ConfigError,
    ErrorCode,
    InvariantError,
    PeerError,
    SnapStartError,
    TransientError,
)
from agentd.store.loaded import LoadedTemplate
from agentd.store.memfd import create_memfd, seal_memfd
from agentd.units import MIB
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.host import read_host_facts
from agentd.vmm.machine import Machine
from agentd.vmm.qemu import Qemu, QemuSettings
from agentd.vmm.qemu_argv import TCG
from agentd.vmm.qemu_launch import QemuLaunch
from agentd.vmm.qemu_open import open_qemu, probe_qemu_version
from agentd.vmm.vmm import BootSpec, ForkSpec, VmRecord
from agentd.wire.manifest import Machine as Shape
from tests.conftest import open_fds
from tests.unit.store.samples import MANIFEST

SHAPE = Shape(memory_mib=3, vcpus=1)
INSTALLATION = uuid.uuid4().hex


def make_qemu(binary: str, tmp_path: Path, cgroups: CgroupTree | None = None) -> Qemu:
    settings = QemuSettings(binary, "7.2.0", TCG, "cpu", 0, INSTALLATION, tmp_path, lambda _: None)
    return Qemu(settings, cgroups or CgroupTree(None))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "s-1"
    path.mkdir(mode=0o700)
    return path


def boot_spec(run_dir: Path) -> BootSpec:
    kernel = run_dir.parent / "kernel"
    kernel.write_text("kernel")
    return BootSpec("s-1", run_dir, kernel, kernel, "quiet", SHAPE)


@pytest.fixture
def template(tmp_path: Path) -> Iterator[LoadedTemplate]:
    memory_fd, state_fd = create_memfd("memory"), create_memfd("state")
    os.ftruncate(memory_fd, 3 * MIB)
    os.ftruncate(state_fd, 3)
    seal_memfd(memory_fd)
    seal_memfd(state_fd)
    facts = make_qemu("/bin/false", tmp_path).facts(SHAPE)
    manifest = msgspec.structs.replace(MANIFEST, machine=SHAPE, vmm=facts)
    loaded = LoadedTemplate(manifest, memory_fd, state_fd)
    yield loaded
    loaded.close()


@contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    """Leave this process that many descriptors, then none."""
    used = set(open_fds())
    free = (number for number in range(1024) if number not in used)
    limit = [next(free) for _ in range(count + 1)][-1]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def clear(run_dir: Path) -> None:
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(mode=0o700)


async def test_a_fork_that_runs_out_of_descriptors_anywhere_gives_all_back(
    tmp_path: Path, run_dir: Path, template: LoadedTemplate
) -> None:
    qemu = make_qemu("/bin/false", tmp_path)
    await asyncio.to_thread(int)  # the executor's first thread is not part of it
    before = open_fds()
    codes = []
    for count in range(24):
        with free_descriptors(count), pytest.raises((TransientError, PeerError)) as caught:
            await qemu.fork(template, ForkSpec("s-1", run_dir, b"{}"), deadline_s=10)
        codes.append(caught.value.code)
        assert open_fds() == before, f"with {count} descriptors left"
        clear(run_dir)
    assert codes[0] is ErrorCode.NODE_FULL
    assert codes[-1] is ErrorCode.VMM_FAILED, "with enough of them the program runs, then ends"
    assert codes == sorted(codes, key=lambda code: code is ErrorCode.VMM_FAILED)


async def test_a_boot_that_runs_out_of_descriptors_anywhere_gives_all_back(
    tmp_path: Path, run_dir: Path
) -> None:
    qemu = make_qemu("/bin/true", tmp_path)
    spec = boot_spec(run_dir)
    await asyncio.to_thread(int)
    before = open_fds()
    failures = 0
    for count in range(24):
        code = await boot_within(count, qemu, spec)
        assert code in (None, ErrorCode.NODE_FULL)
        failures += code is not None
        clear(run_dir)
        assert open_fds() == before, f"with {count} descriptors left"
    assert 6 < failures < 24


async def boot_within(count: int, qemu: Qemu, spec: BootSpec) -> ErrorCode | None:
    """Boot, end the machine; the code of the failure if it did not start."""
    try:
        with free_descriptors(count):
            vm = await qemu.boot(spec)
    except SnapStartError as exc:
        return exc.code
    await vm.kill()
    return None


async def test_a_booted_machine_owns_its_memory_until_it_ends(
    tmp_path: Path, run_dir: Path
) -> None:
    vm = await make_qemu("/bin/false", tmp_path).boot(boot_spec(run_dir))
    assert "snapstart:s-1" in " ".join(open_fds().values())
    assert await vm.wait() == "exited with status 1"
    with pytest.raises(PeerError, match="freezing machine s-1: connecting to its monitor"):
        await make_qemu("/bin/false", tmp_path).checkpoint(vm, deadline_s=1)
    assert "snapstart:s-1" not in " ".join(open_fds().values())


async def test_a_fork_cannot_be_frozen(tmp_path: Path, run_dir: Path, idle_program: Path) -> None:
    qemu = make_qemu("/bin/false", tmp_path)
    vm = await make_qemu(str(idle_program), tmp_path).boot(boot_spec(run_dir))
    os.close(vm.take_memory().memory_fd)
    with pytest.raises(InvariantError):
        await qemu.checkpoint(vm, deadline_s=1)
    assert vm.is_running, "asking for what cannot be harms nobody"
    with pytest.raises(InvariantError):
        await qemu.checkpoint(object(), deadline_s=1)  # type: ignore[arg-type]
    await vm.kill()


async def test_a_monitor_that_never_answers_ends_the_freezing_and_the_machine(
    tmp_path: Path, run_dir: Path, idle_program: Path
) -> None:
    qemu = make_qemu(str(idle_program), tmp_path)
    vm = await qemu.boot(boot_spec(run_dir))
    assert await vm.console_tail(deadline_s=0.1) == ""
    with pytest.raises(TransientError) as caught:
        await qemu.checkpoint(vm, deadline_s=0.1)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert not vm.is_running


async def test_a_cancelled_boot_kills_what_it_started(
    tmp_path: Path, run_dir: Path, idle_program: Path
) -> None:
    qemu = make_qemu(str(idle_program), tmp_path)
    booting = asyncio.create_task(qemu.boot(boot_spec(run_dir)))
    await asyncio.sleep(0)
    booting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await booting
    assert qemu.find_all() == []


@pytest.mark.parametrize("missing", ["kernel", "run_dir", "short_path"])
async def test_what_is_missing_is_named(tmp_path: Path, run_dir: Path, missing: str) -> None:
    spec = boot_spec(run_dir)
    if missing == "kernel":
        spec = replace(spec, kernel=tmp_path / "none")
    elif missing == "run_dir":
        spec = replace(spec, run_dir=tmp_path / "none")
    else:
        deep = tmp_path / ("d" * 100)
        deep.mkdir()
        spec = replace(spec, run_dir=deep)
    with pytest.raises(ConfigError) as caught:
        await make_qemu("/bin/true", tmp_path).boot_session(spec, b"{}", deadline_s=5)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    words = {"kernel": "none", "run_dir": "No such file", "short_path": "too long"}
    assert words[missing] in caught.value.message


def find_soon(qemu: Qemu) -> list[VmRecord]:
    """execve(2) lets the parent go on a moment before /proc shows the new arguments."""
    give_up = time.monotonic() + 10
    while not (found := qemu.find_all()) and time.monotonic() < give_up:
        time.sleep(0.01)
    return found


async def test_a_machine_of_an_earlier_daemon_is_adopted(
    tmp_path: Path, run_dir: Path, idle_program: Path
) -> None:
    qemu = make_qemu(str(idle_program), tmp_path)
    vm = await qemu.boot(boot_spec(run_dir))
    try:
        assert await asyncio.to_thread(find_soon, qemu) == [vm.record]
        heir = qemu.adopt(vm.record)
        assert isinstance(heir, Machine)
        heir.release()
    finally:
        await vm.kill()
    assert qemu.adopt(vm.record) is None


def test_a_launch_gives_back_all_but_what_was_kept(run_dir: Path) -> None:
    before = open_fds()
    launch = QemuLaunch("s-1", run_dir, None)
    launch.open()
    kept = launch.keep(launch.own(create_memfd("kept")))
    launch.own(create_memfd("given back"))
    channel = launch.take_channel()
    launch.close()
    launch.close()
    left = {fd for fd, what in open_fds().items() if before.get(fd) != what}
    assert left == {kept, channel.fileno()}
    os.close(kept)
    channel.close()


def test_a_reopened_file_has_a_read_offset_of_its_own(run_dir: Path) -> None:
    fd = create_memfd("state")
    os.write(fd, b"abc")
    launch = QemuLaunch("s-1", run_dir, None)
    launch.inherit_reopened(fd, 13)
    assert os.lseek(launch.inherited[13], 0, os.SEEK_CUR) == 0
    launch.close()
    os.close(fd)


async def test_starts_do_not_wait_for_the_threads_of_others(
    tmp_path: Path, run_dir: Path, idle_program: Path
) -> None:
    release = threading.Event()
    with ThreadPoolExecutor(1) as everybodys:
        asyncio.get_running_loop().set_default_executor(everybodys)
        busy = asyncio.create_task(asyncio.to_thread(release.wait))
        await asyncio.sleep(0)
        try:
            vm = await make_qemu(str(idle_program), tmp_path).boot(boot_spec(run_dir))
            await vm.kill()
            assert not busy.done()
        finally:
            release.set()
            await busy


async def test_a_boot_that_fails_says_what_the_guest_said_last(
    tmp_path: Path, run_dir: Path
) -> None:
    program = write_script(tmp_path, "echo 'Kernel panic - not syncing' > /proc/self/fd/16; exit 3")
    qemu = make_qemu(str(program), tmp_path)
    with pytest.raises(PeerError, match="its console said last: 'Kernel panic - not syncing'"):
        await qemu.boot_session(boot_spec(run_dir), b"{}", deadline_s=10)


async def test_a_console_fills_no_more_than_its_share(tmp_path: Path, run_dir: Path) -> None:
    is_open = tmp_path / "is-open"
    wait = f"while [ ! -e {is_open} ]; do sleep 0.01; done"
    program = write_script(tmp_path, f"{wait}; yes > /proc/self/fd/16")
    vm = await make_qemu(str(program), tmp_path).boot(boot_spec(run_dir))
    fd = os.open(f"/proc/{vm.record.pid}/fd/16", os.O_RDONLY)
    is_open.touch()
    try:
        await vm.wait()
        assert os.fstat(fd).st_size == 4 * MIB
        assert await vm.console_tail(deadline_s=1) == "y\n" * 2048
    finally:
        os.close(fd)
        await vm.kill()


# -- control groups, for real --------------------------------------------------------------------


@pytest.fixture
def cgroups() -> CgroupTree:
    tree = CgroupTree.find(INSTALLATION)
    if tree.root is None:
        pytest.skip("no cgroup version 2 that we may write to")
    return tree


def group_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


async def test_a_machine_is_born_in_its_group_which_goes_with_it(
    tmp_path: Path, run_dir: Path, idle_program: Path, cgroups: CgroupTree
) -> None:
    vm_id = f"s-{os.getpid():x}"
    qemu = make_qemu(str(idle_program), tmp_path, cgroups)
    vm = await qemu.boot(replace(boot_spec(run_dir), vm_id=vm_id))
    assert vm_id in cgroups.list_ids()
    assert f"/snapstart-{INSTALLATION}-{vm_id}\n" in group_of(vm.record.pid)
    await vm.kill()
    assert vm_id not in cgroups.list_ids()


async def test_a_failed_start_leaves_no_group(
    tmp_path: Path, run_dir: Path, template: LoadedTemplate, cgroups: CgroupTree
) -> None:
    vm_id = f"s-{os.getpid():x}"
    qemu = make_qemu("/nonexistent/qemu", tmp_path, cgroups)
    with pytest.raises(ConfigError) as caught:
        await qemu.fork(template, ForkSpec(vm_id, run_dir, b"{}"), deadline_s=5)
    assert caught.value.code is ErrorCode.MONITOR_MISSING
    assert vm_id not in cgroups.list_ids()


def test_a_group_that_is_there_already_is_used(cgroups: CgroupTree) -> None:
    vm_id = f"x-{os.getpid():x}"
    for _ in range(2):
        fd = cgroups.create(vm_id)
        assert fd >= 0
        os.close(fd)
    cgroups.remove(vm_id)
    cgroups.remove(vm_id)
    assert vm_id not in cgroups.list_ids()


async def test_groups_of_machines_that_died_meanwhile_go_whatever_else_is_left_of_them(
    tmp_path: Path, run_dir: Path, idle_program: Path, cgroups: CgroupTree
) -> None:
    dead, alive, gone = (f"{name}-{os.getpid():x}" for name in ("dead", "alive", "gone"))
    foreign = CgroupTree(cgroups.root, f"{INSTALLATION}x")
    for tree in (cgroups, foreign):
        os.close(tree.create(dead))
    vm = await make_qemu(str(idle_program), tmp_path, cgroups).boot(
        replace(boot_spec(run_dir), vm_id=alive)
    )
    try:
        program = write_script(tmp_path, "echo QEMU emulator version 7.2.22")
        qemu = open_qemu(
            binary=str(program),
            accel="tcg",
            uid_base=0,
            installation=INSTALLATION,
            vms_dir=tmp_path / "vms",
            euid=os.geteuid(),
        )
        assert cgroups.list_ids() == [alive]
        assert foreign.list_ids() == [dead]
        for forget in (
            lambda: qemu.adopt(VmRecord(gone, run_dir, vm.record.pid, 1)),
            lambda: qemu.forget(gone),
        ):
            os.close(cgroups.create(gone))
            assert forget() is None
            assert gone not in cgroups.list_ids()
        qemu.forget(alive)
        assert alive in cgroups.list_ids(), "it still runs"
        qemu.close()
    finally:
        foreign.remove(dead)
        await vm.kill()


# -- the program itself --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo GNU bash, version 5", "it answered 'GNU bash"),
        ("echo QEMU emulator version", "it answered"),
        ("exit 1", "exit status 1"),
        ("printf '\\377\\n'", "it answered"),
    ],
    ids=["another_program", "no_version", "failure", "no_text"],
)
def test_a_program_that_is_no_qemu_is_refused(tmp_path: Path, script: str, words: str) -> None:
    program = write_script(tmp_path, script)
    with pytest.raises(ConfigError) as caught:
        probe_qemu_version(str(program))
    assert caught.value.code is ErrorCode.MONITOR_MISSING
    assert words in caught.value.message


def test_the_version_of_qemu_is_its_fourth_word(tmp_path: Path) -> None:
    program = write_script(tmp_path, "echo 'QEMU emulator version 7.2.22 (Debian 1:7.2)'")
    assert probe_qemu_version(str(program)) == "7.2.22"
    with pytest.raises(ConfigError):
        probe_qemu_version(str(tmp_path / "none"))


def test_this_host_has_the_same_facts_each_time() -> None:
    first, second = read_host_facts(), read_host_facts()
    assert (first.cpu, first.kvm) == (second.cpu, second.kvm)
    assert abs(first.tsc_khz - second.tsc_khz) * 1000 <= first.tsc_khz


def write_script(tmp_path: Path, body: str) -> Path:
    program = tmp_path / "program"
    # Written by a process of its own: a descriptor of ours that some other thread's child
    # inherits for a moment would make it "busy" (ETXTBSY).
    text = f"#!/bin/sh\n{body}\n"
    subprocess.run(
        ["sh", "-c", 'cat > "$0"; chmod 755 "$0"', program], input=text.encode(), check=True
    )
    return program
