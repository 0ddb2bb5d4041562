"""Starts that fail: what is said, and that everything is given back."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agentd.errors import (
    ConfigError,
    ErrorCode,
    PeerError,
    PermanentError,
    SnapStartError,
    TransientError,
)
from agentd.store.loaded import LoadedTemplate
from agentd.store.memfd import create_memfd, seal_memfd
from agentd.vmm.cloud_hypervisor_machine import CloudMachine
from agentd.vmm.cloud_hypervisor_open import open_cloud_hypervisor, probe_version
from agentd.vmm.fault_access import FaultAccess
from agentd.vmm.host import DeviceAccess, HostFacts
from agentd.vmm.require import find_program, require_kvm
from agentd.vmm.start import Progress, unless_dead
from agentd.warmfork.channel import GuestChannel
from tests.conftest import open_fds
from tests.fakes.cloud_hypervisor import StandIn, build_launcher
from tests.fakes.cloud_hypervisor_lab import DEADLINE_S, Lab, loaded, prepare_of, run

# The stand-in is a program that has to start, and to come as far as it is to hang.
SOON_S = 10.0


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_launcher(tmp_path_factory.mktemp("launcher"))


@pytest.fixture
def lab(launcher: Path, tmp_path: Path) -> Iterator[Lab]:
    with Lab(launcher, tmp_path) as opened:
        yield opened


@pytest.fixture
async def template(lab: Lab) -> AsyncIterator[LoadedTemplate]:
    made = await lab.freeze()
    yield made
    made.close()


def clear(lab: Lab) -> None:
    """The run directory is its owner's to remove, as the engine does."""
    for path in lab.vms_dir.iterdir():
        subprocess.run(["rm", "-r", path], check=True)


async def refuse_fork(
    lab: Lab, template: LoadedTemplate, deadline_s: float = DEADLINE_S
) -> SnapStartError:
    """The error of a fork that has to fail, once it is sure that nothing is left of it."""
    before = open_fds()
    with pytest.raises(SnapStartError) as caught:
        await lab.driver.fork(template, lab.fork_spec(), deadline_s=deadline_s)
    clear(lab)
    assert lab.driver.find_all() == []
    await asyncio.sleep(0)
    assert open_fds().keys() == before.keys()
    return caught.value


# -- the monitor ----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["vmm.ping", "vm.restore", "vm.info", "vm.resume"])
@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("exit", ErrorCode.VMM_FAILED, "the monitor exited with status 3"),
        ("drop", ErrorCode.VMM_FAILED, "it hung up"),
        ("refuse", ErrorCode.VMM_FAILED, "The stand-in was told to refuse"),
        ("os_error_12", ErrorCode.NO_MEMORY, "Cannot allocate memory"),
        ("os_error_28", ErrorCode.DISK_FULL, "No space left on device"),
    ],
)
async def test_a_monitor_that_fails_anywhere_ends_the_fork_with_its_words(
    lab: Lab, template: LoadedTemplate, action: str, kind: str, code: ErrorCode, words: str
) -> None:
    lab.stand_in.set([f"{kind}@{action}"])
    error = await refuse_fork(lab, template)
    assert error.code is code, error
    assert words in error.message
    assert error.message.startswith("starting machine f-")


@pytest.mark.parametrize("action", ["vmm.ping", "vm.info"])
async def test_an_answer_that_is_none_is_the_monitors_fault(
    lab: Lab, template: LoadedTemplate, action: str
) -> None:
    lab.stand_in.set([f"nonsense@{action}"])
    error = await refuse_fork(lab, template)
    assert isinstance(error, PeerError)
    assert error.code is ErrorCode.VMM_PROTOCOL
    assert "<html>" in error.message


@pytest.mark.parametrize("action", ["vmm.ping", "vm.restore", "vm.resume"])
async def test_a_monitor_that_hangs_is_ended_at_the_deadline(
    lab: Lab, template: LoadedTemplate, action: str
) -> None:
    lab.stand_in.set([f"hang@{action}"])
    error = await refuse_fork(lab, template, SOON_S)
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.DEADLINE_EXCEEDED
    assert action in error.message


async def test_what_the_monitor_printed_and_did_last_is_told(
    lab: Lab, template: LoadedTemplate
) -> None:
    lab.stand_in.set(["exit@vm.resume"])
    error = await refuse_fork(lab, template)
    assert "the monitor said: cloud-hypervisor: 0.1s: <vmm> ERROR: stand-in was" in error.message
    assert "its last event: vm restored" in error.message


async def test_a_monitor_that_does_not_come_up_says_why(lab: Lab, template: LoadedTemplate) -> None:
    lab.stand_in.set(["die_at_start"])
    error = await refuse_fork(lab, template)
    assert "the monitor exited with status 1" in error.message
    assert "/dev/kvm is not there" in error.message


async def test_a_monitor_without_memory_to_start_with_may_be_tried_again(
    lab: Lab, template: LoadedTemplate
) -> None:
    lab.stand_in.set(["no_memory_at_start"])
    error = await refuse_fork(lab, template)
    assert isinstance(error, TransientError)
    assert error.code is ErrorCode.NO_MEMORY


async def test_another_machine_than_the_one_that_was_described_is_ended(
    lab: Lab, template: LoadedTemplate
) -> None:
    lab.stand_in.set(["other_machine"])
    error = await refuse_fork(lab, template)
    assert error.code is ErrorCode.VMM_PROTOCOL
    assert "another machine than it was told" in error.message


async def test_a_cpu_that_lacks_what_the_templates_had_makes_it_incompatible(
    lab: Lab, template: LoadedTemplate
) -> None:
    lab.stand_in.set(cpuid=[{"function": 1, "index": 0, "eax": 0}])
    error = await refuse_fork(lab, template)
    assert isinstance(error, PermanentError)
    assert error.code is ErrorCode.TEMPLATE_INCOMPATIBLE
    assert "build it again" in error.hint


async def test_a_program_that_was_replaced_meanwhile_is_not_driven(
    lab: Lab, template: LoadedTemplate
) -> None:
    lab.stand_in.version = "v53.1"
    lab.stand_in.set()
    error = await refuse_fork(lab, template)
    assert isinstance(error, ConfigError)
    assert "it is 'v53.1' (53.1.0), not 'v53.0'" in error.message
    assert "restart agentd" in error.hint


async def test_a_program_older_than_it_says_is_not_driven(
    lab: Lab, template: LoadedTemplate
) -> None:
    lab.stand_in.set(release=[47, 0])
    assert isinstance(await refuse_fork(lab, template), ConfigError)


# -- the guest ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"refused_connections": 3}, "the guest is not listening yet"),
        ({"muted_connections": 1}, "the first connection is taken for one from before"),
    ],
    ids=["refused", "muted"],
)
async def test_a_guest_that_takes_a_moment_is_called_again(
    lab: Lab, template: LoadedTemplate, settings: dict[str, int], problem: str
) -> None:
    lab.stand_in.set(**settings)
    async with lab.session(template) as session:
        assert await session.run("print(guest.gate)") == "open\n", problem


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("vsock_full", ErrorCode.GUEST_NOT_READY),
        ("silent", ErrorCode.GUEST_NOT_READY),
        ("reject", ErrorCode.GUEST_REJECTED),
    ],
)
async def test_a_guest_that_does_not_start_ends_the_fork(
    lab: Lab, template: LoadedTemplate, fault: str, code: ErrorCode
) -> None:
    lab.stand_in.set([fault])
    deadline_s = DEADLINE_S if fault == "reject" else SOON_S
    error = await refuse_fork(lab, template, deadline_s)
    assert error.code is code
    if fault == "reject":
        assert "'resource_exhausted'" in error.message


async def test_a_machine_that_dies_while_its_guest_is_waited_for_is_noticed(
    lab: Lab, template: LoadedTemplate
) -> None:
    lab.stand_in.set(muted_connections=100)
    forking = asyncio.create_task(lab.driver.fork(template, lab.fork_spec(), deadline_s=DEADLINE_S))
    async with asyncio.timeout(DEADLINE_S):
        while not list(lab.vms_dir.glob("*/vm/channel.sock")):  # noqa: ASYNC110 - not ours to set
            await asyncio.sleep(0.01)
    (record,) = lab.driver.find_all()
    os.kill(record.pid, signal.SIGKILL)
    with pytest.raises(PeerError, match="the monitor was killed by SIGKILL"):
        await forking
    assert lab.left() == []


# -- the template ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blob", "words"),
    [(b"QEVM", "its device state: it is no snapshot"), (b"", "its device state")],
)
async def test_a_damaged_device_state_is_named(
    lab: Lab, template: LoadedTemplate, blob: bytes, words: str
) -> None:
    fd = create_memfd("damaged")
    os.write(fd, blob)
    seal_memfd(fd)
    state = msgspec.structs.replace(template.manifest.device_state, size_bytes=len(blob))
    manifest = msgspec.structs.replace(template.manifest, device_state=state, template_id="another")
    error = await refuse_fork(lab, LoadedTemplate(manifest, template.memory_fd, fd))
    os.close(fd)
    assert error.code is ErrorCode.TEMPLATE_CORRUPT
    assert words in error.message


async def test_a_state_of_another_memory_is_damaged(lab: Lab, template: LoadedTemplate) -> None:
    memory = msgspec.structs.replace(template.manifest.memory, size_bytes=8192)
    manifest = msgspec.structs.replace(template.manifest, memory=memory, template_id="another")
    with pytest.raises(PermanentError, match="names 4194304 bytes of memory") as caught:
        lab.driver._restorer.read(replace(template, manifest=manifest))
    assert caught.value.code is ErrorCode.TEMPLATE_CORRUPT


async def test_snapshots_that_were_read_are_not_read_again_up_to_a_number(lab: Lab) -> None:
    templates = [await lab.freeze() for _ in range(2)]
    restorer = lab.driver._restorer
    first = restorer.read(templates[0])
    assert restorer.read(templates[0]) is first
    for number in range(20):
        other = msgspec.structs.replace(templates[1].manifest, template_id=f"t-{number}")
        restorer.read(replace(templates[1], manifest=other))
    assert len(restorer._snapshots) == 16
    assert restorer.read(templates[0]) is not first
    for template in templates:
        template.close()


# -- resources ------------------------------------------------------------------------------------


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


async def test_a_fork_that_runs_out_of_descriptors_anywhere_gives_all_back(
    lab: Lab, template: LoadedTemplate
) -> None:
    await asyncio.to_thread(int)  # the executor's first thread is not part of it
    lab.driver._restorer.read(template)
    codes = []
    for count in range(26):
        before = open_fds()
        with free_descriptors(count):
            try:
                started = await lab.fork(template)
            except SnapStartError as exc:
                codes.append(exc.code)
            else:
                codes.append(None)
                started.channel.sock.close()
                await started.vm.kill()
        clear(lab)
        await asyncio.sleep(0.01)
        assert open_fds() == before, f"with {count} descriptors left"
    assert codes[0] is ErrorCode.NODE_FULL
    assert codes[-1] is None, "with enough of them it starts"


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_a_fork_that_is_cancelled_anywhere_leaves_nothing(
    lab: Lab, template: LoadedTemplate, turns: int
) -> None:
    before = open_fds()
    forking = asyncio.create_task(lab.fork(template))
    for _ in range(turns):
        await asyncio.sleep(0.004)
    forking.cancel()
    await asyncio.wait({forking})
    if not forking.cancelled():  # it was faster
        started = forking.result()
        started.channel.sock.close()
        await started.vm.kill()
    assert lab.driver.find_all() == []
    await asyncio.sleep(0.01)
    assert open_fds().keys() == before.keys()


async def test_a_boot_that_is_cancelled_leaves_nothing(lab: Lab) -> None:
    before = open_fds()
    booting = asyncio.create_task(lab.boot())
    await asyncio.sleep(0.02)
    booting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await booting
    assert lab.driver.find_all() == []
    await asyncio.sleep(0.01)
    assert open_fds().keys() == before.keys()


@pytest.mark.parametrize("missing", ["kernel", "run_dir", "short_path"])
async def test_what_is_missing_is_named(lab: Lab, missing: str) -> None:
    spec = lab.boot_spec()
    if missing == "kernel":
        spec = replace(spec, kernel=lab.directory / "none")
    elif missing == "run_dir":
        spec = replace(spec, run_dir=lab.directory / "none")
    else:
        deep = lab.directory / ("d" * 100)
        deep.mkdir()
        spec = replace(spec, run_dir=deep)
    with pytest.raises(ConfigError) as caught:
        await lab.driver.boot_session(spec, prepare_of("s-1"), deadline_s=5)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    words = {"kernel": "none", "run_dir": "No such file", "short_path": "too long"}
    assert words[missing] in caught.value.message


async def test_a_boot_that_fails_says_what_the_guest_said_last(lab: Lab) -> None:
    lab.stand_in.set(["reject"])
    with pytest.raises(PeerError, match="its console said last: 'stand-in guest ") as caught:
        await lab.driver.boot_session(lab.boot_spec(), prepare_of("s-1"), deadline_s=DEADLINE_S)
    assert caught.value.code is ErrorCode.GUEST_REJECTED
    assert lab.left() == []


@pytest.mark.parametrize("action", ["vm.create", "vm.boot"])
async def test_a_boot_that_is_refused_ends_its_monitor(lab: Lab, action: str) -> None:
    lab.stand_in.set([f"refuse@{action}"])
    with pytest.raises(PeerError, match=action):
        await lab.boot()
    assert lab.left() == []


async def reset(channel: GuestChannel) -> None:
    """The machine is gone before it can answer."""
    with pytest.raises(PeerError):
        await run(channel, "guest.reset()")
    await channel.close()


async def test_a_machine_that_is_reset_ends_and_its_console_stays(lab: Lab) -> None:
    started = await lab.driver.boot_session(
        lab.boot_spec(), prepare_of("s-1"), deadline_s=DEADLINE_S
    )
    channel = await GuestChannel.over(started.channel, name="s-1")
    await run(channel, "guest.console(b'Kernel panic')")
    await reset(channel)
    assert await started.vm.wait() == "exited with status 1"
    assert (await started.vm.console_tail(deadline_s=1)).endswith("Kernel panic")
    await started.vm.kill()


async def test_a_fork_that_is_reset_ends(lab: Lab, template: LoadedTemplate) -> None:
    started = await lab.fork(template)
    await reset(await GuestChannel.over(started.channel, name="fork"))
    assert await started.vm.wait() == "exited with status 1"
    await started.vm.kill()


# -- work that depends on a process ---------------------------------------------------------------


async def test_work_with_a_machine_that_is_gone_already_is_given_up(lab: Lab) -> None:
    vm = await lab.boot()
    await vm.kill()
    with pytest.raises(PeerError, match="was killed by SIGKILL"):
        await unless_dead(vm, asyncio.Event().wait())


async def test_work_that_was_hung_up_on_says_how_the_process_ended(lab: Lab) -> None:
    vm = await lab.boot()

    async def work() -> None:
        os.kill(vm.record.pid, signal.SIGKILL)
        raise PeerError(ErrorCode.VMM_FAILED, "it hung up")

    with pytest.raises(PeerError, match="was killed by SIGKILL"):
        await unless_dead(vm, work())
    await vm.kill()


async def test_work_may_fail_with_a_timeout_of_its_own(lab: Lab) -> None:
    async def work() -> None:
        raise TimeoutError("its own")

    vm = await lab.boot()
    with pytest.raises(TimeoutError, match="its own"):
        await unless_dead(vm, work())
    assert vm.is_running
    await vm.kill()


def test_stages_are_counted_from_the_beginning() -> None:
    progress = Progress(100.0)
    progress.reached("spawn")
    progress.reached("load")
    assert 0 <= progress.stages_ms["spawn"] <= progress.stages_ms["load"]
    assert 0 < progress.left_s <= 100
    assert Progress(0.0).left_s == 0


# -- opening it -----------------------------------------------------------------------------------


def test_the_version_is_what_it_says_of_itself(launcher: Path, tmp_path: Path) -> None:
    stand_in = StandIn(launcher, tmp_path / "bin", "v53.0-12-gabc")
    assert probe_version(str(stand_in.binary)) == "v53.0-12-gabc"


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("echo QEMU emulator version 7.2", ErrorCode.MONITOR_MISSING, "it answered 'QEMU"),
        ("echo cloud-hypervisor", ErrorCode.MONITOR_MISSING, "it answered"),
        ("exit 1", ErrorCode.MONITOR_MISSING, "exit status 1"),
        ("echo cloud-hypervisor v47.0", ErrorCode.CONFIG_INVALID, "v47.0, too old"),
    ],
    ids=["another_program", "no_version", "failure", "too_old"],
)
def test_a_program_that_cannot_be_driven_is_refused(
    tmp_path: Path, script: str, code: ErrorCode, words: str
) -> None:
    program = tmp_path / "program"
    text = f"#!/bin/sh\n{script}\n"
    subprocess.run(
        ["sh", "-c", 'cat > "$0"; chmod 755 "$0"', program], input=text.encode(), check=True
    )
    with pytest.raises(ConfigError, match=words) as caught:
        probe_version(str(program))
    assert caught.value.code is code
    with pytest.raises(ConfigError, match="not there"):
        find_program(str(tmp_path / "none"), "install it")


@pytest.mark.parametrize(
    ("access", "for_root", "for_others"),
    [
        (FaultAccess("0", 0o600), True, False),
        (FaultAccess("", None), True, False),
        (FaultAccess("1", None), True, True),
        (FaultAccess("0", 0o666), True, True),
    ],
)
def test_who_may_make_a_userfaultfd(access: FaultAccess, for_root: bool, for_others: bool) -> None:
    assert access.is_open_to(is_root=True) is for_root
    assert access.is_open_to(is_root=False) is for_others


def test_the_host_says_who_may(tmp_path: Path) -> None:
    (tmp_path / "sys/vm").mkdir(parents=True)
    (tmp_path / "sys/vm/unprivileged_userfaultfd").write_text("1\n")
    (tmp_path / "userfaultfd").touch(0o640)
    assert FaultAccess.read(tmp_path, tmp_path) == FaultAccess("1", 0o640)
    assert FaultAccess.read(tmp_path / "x", tmp_path / "x") == FaultAccess("", None)


def test_without_kvm_it_is_not_opened(
    launcher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = HostFacts("cpu", 0, has_virtualization=False, kvm=None)
    with pytest.raises(ConfigError, match=r"opening Cloud Hypervisor.*svm or vmx") as caught:
        require_kvm("Cloud Hypervisor", nothing, is_unprivileged=True)
    assert "QEMU" in caught.value.hint
    usable = HostFacts("cpu", 0, has_virtualization=True, kvm=DeviceAccess(0o660, 104))
    require_kvm("Cloud Hypervisor", usable, is_unprivileged=True)
    monkeypatch.setattr("agentd.vmm.cloud_hypervisor_open.read_host_facts", lambda: usable)
    stand_in = StandIn(launcher, tmp_path / "bin", "v52.0")
    driver = open_cloud_hypervisor(
        binary=str(stand_in.binary),
        uid_base=0,
        installation="inst",
        vms_dir=tmp_path,
        euid=os.geteuid(),
    )
    assert repr(driver) == "<CloudHypervisor v52.0>"
    driver.close()


async def test_a_machine_is_told_by_its_class(lab: Lab) -> None:
    vm = await lab.boot()
    assert isinstance(vm, CloudMachine)
    assert vm.channel_prelude == b"CONNECT 1024\n"
    template = loaded(await lab.driver.checkpoint(vm, deadline_s=DEADLINE_S))
    template.close()
