"""The life of machines under Cloud Hypervisor, version by version, mode by mode."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import structlog

from agentd.errors import (
    ConfigError,
    ErrorCode,
    InvariantError,
    PermanentError,
)
from agentd.store.loaded import LoadedTemplate
from agentd.store.memfd import is_sealed
from agentd.units import MIB
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.cloud_hypervisor_machine import CloudMachine, read_console
from agentd.vmm.cloud_hypervisor_restore import private_bytes
from agentd.vmm.cloud_hypervisor_versions import RestoreMode
from agentd.vmm.find import Finder, named_by_first_word
from agentd.vmm.vmm import VmRecord
from agentd.warmfork import services
from agentd.warmfork.channel import GuestChannel
from agentd.wire.manifest import Machine
from tests.fakes.cloud_hypervisor import build_launcher
from tests.fakes.cloud_hypervisor_lab import (
    DEADLINE_S,
    SHAPE,
    Lab,
    connect,
    is_as_sealed,
    prepare_of,
    run,
)

VERSIONS = ["v48.0", "v52.0", "v53.0", "v54.0"]


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_launcher(tmp_path_factory.mktemp("launcher"))


@pytest.fixture
def lab(launcher: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(launcher, tmp_path, getattr(request, "param", "v53.0")) as opened:
        yield opened


@pytest.fixture
async def template(lab: Lab) -> AsyncIterator[LoadedTemplate]:
    made = await lab.freeze()
    yield made
    made.close()


def mappings_of(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def modes_of(logged: list[structlog.typing.EventDict]) -> list[str]:
    return [entry["mode"] for entry in logged if entry["event"] == "vmm.restored"]


# -- from boot to fork ----------------------------------------------------------------------------


@pytest.mark.parametrize("lab", VERSIONS, indirect=True)
async def test_a_template_is_made_and_forked_by_every_version(lab: Lab) -> None:
    vm = await lab.boot()
    async with await connect(vm) as channel:
        assert (await services.take_baseline(channel, deadline_s=20)).gate == "closed"
    frozen = await lab.driver.checkpoint(vm, deadline_s=DEADLINE_S)
    assert not vm.is_running
    assert is_sealed(frozen.memory_fd)
    assert is_sealed(frozen.state_fd)
    assert frozen.facts == lab.driver.facts(SHAPE)
    assert list(frozen.stages_ms) == ["stop", "save", "keep"]
    os.close(frozen.memory_fd)
    os.close(frozen.state_fd)
    template = await lab.freeze()
    async with lab.session(template) as session:
        assert await session.run("print(guest.gate)") == "open\n"
        stages = session.started.stages_ms
        assert list(stages) == ["spawn", "load", "resume", "inject", "guest_ready"]
        assert list(stages.values()) == sorted(stages.values())
    template.close()
    assert lab.left() == []


@pytest.mark.parametrize("lab", VERSIONS, indirect=True)
async def test_a_fork_takes_on_the_identity_it_was_given(
    lab: Lab, template: LoadedTemplate
) -> None:
    async with lab.session(template) as one, lab.session(template) as two:
        names = [
            json.loads(await each.run("import json; print(json.dumps(guest.identity))"))
            for each in (one, two)
        ]
    assert names[0]["session_id"] == one.vm.record.vm_id
    assert names[1]["session_id"] == two.vm.record.vm_id


async def test_forks_share_a_template_that_none_of_them_can_change(
    lab: Lab, template: LoadedTemplate
) -> None:
    async with lab.session(template) as one, lab.session(template) as two:
        await one.run("guest.memory.write(b'x' * 64)")
        assert await one.run("print(guest.memory.read(2))") == "b'xx'\n"
        assert "xx" not in await two.run("print(guest.memory.read(64))")
    assert is_as_sealed(template)


@pytest.mark.parametrize("gap_mib", [1, 3])
@pytest.mark.parametrize("mode", [RestoreMode.MAPPED, RestoreMode.COPY])
async def test_memory_with_a_hole_in_its_addresses_lies_in_the_file_without_one(
    lab: Lab, gap_mib: int, mode: RestoreMode
) -> None:
    lab.stand_in.set(gap_at=gap_mib * MIB)
    template = await lab.freeze()
    lab.driver._restorer._spoiled |= {RestoreMode.MAPPED} - {mode}
    with structlog.testing.capture_logs() as logged:
        async with lab.session(template) as session:
            code = "print([(hex(r.gpa), r.size >> 20) for r in guest.memory.regions])"
            regions = f"[('0x0', {gap_mib}), ('0x100000000', {4 - gap_mib})]\n"
            assert await session.run(code) == regions
    assert modes_of(logged) == [mode.value]
    template.close()


async def test_a_session_can_be_booted_cold(lab: Lab) -> None:
    spec = lab.boot_spec()
    started = await lab.driver.boot_session(spec, prepare_of("cold"), deadline_s=DEADLINE_S)
    assert list(started.stages_ms) == ["spawn", "load", "resume", "inject", "guest_ready"]
    async with await GuestChannel.over(started.channel, name="cold") as channel:
        assert await run(channel, "print(guest.gate)") == "open\n"
    with pytest.raises(InvariantError):
        await lab.driver.checkpoint(object(), deadline_s=1)  # type: ignore[arg-type]
    await started.vm.kill()
    assert lab.left() == []


async def test_only_what_was_booted_to_be_saved_is(lab: Lab, template: LoadedTemplate) -> None:
    async with lab.session(template) as session:
        with pytest.raises(InvariantError):
            await lab.driver.checkpoint(session.vm, deadline_s=1)
        assert session.vm.is_running, "asking for what cannot be harms nobody"


# -- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lab", "mode"),
    [("v48.0", "Mapped"), ("v51.1", "Mapped"), ("v53.0", "Mapped"), ("v54.0", "CopyOnWrite")],
    indirect=["lab"],
)
async def test_each_version_shares_memory_as_well_as_it_can(
    lab: Lab, template: LoadedTemplate, mode: str
) -> None:
    with structlog.testing.capture_logs() as logged:
        async with lab.session(template) as session:
            assert "snapstart:" in mappings_of(session.vm.record.pid)
    assert modes_of(logged) == [mode]
    assert [entry["why"] for entry in logged if entry["event"] == "vmm.restored"] != [""]


@pytest.mark.parametrize(
    ("lab", "can_fault", "mode"),
    [("v51.1", True, "Copy"), ("v52.0", True, "OnDemand"), ("v53.0", False, "Copy")],
    indirect=["lab"],
)
async def test_without_mapping_pages_are_read_when_used_or_all_at_once(
    lab: Lab, template: LoadedTemplate, can_fault: bool, mode: str
) -> None:
    driver = lab.open(can_fault=can_fault)
    driver._restorer._spoiled.add(RestoreMode.MAPPED)
    with structlog.testing.capture_logs() as logged:
        async with lab.session(template, driver) as session:
            assert await session.run("print(guest.gate)") == "open\n"
    driver.close()
    assert modes_of(logged) == [mode]
    assert is_as_sealed(template)


@pytest.mark.parametrize("lab", ["v52.0", "v53.0"], indirect=True)
async def test_a_machine_larger_than_a_file_may_be_is_restored_and_booted(lab: Lab) -> None:
    """One version keeps all RAM in files, which the limit of a file's size applies to."""
    shape = Machine(memory_mib=24, vcpus=1)
    template = await lab.freeze(shape)
    lab.driver._restorer._spoiled.add(RestoreMode.MAPPED)
    async with lab.session(template) as session:
        assert await session.run("print(guest.gate)") == "open\n"
    template.close()
    spec = lab.boot_spec(shape)
    started = await lab.driver.boot_session(spec, prepare_of("cold"), deadline_s=DEADLINE_S)
    started.channel.sock.close()
    await started.vm.kill()


@pytest.mark.parametrize("lab", ["v54.0"], indirect=True)
async def test_a_build_without_the_mode_of_its_release_gets_the_next_one(
    lab: Lab, template: LoadedTemplate
) -> None:
    """Builds between two releases call themselves by the later one."""
    lab.stand_in.set(["no_copy_on_write"])
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            async with lab.session(template) as session:
                assert await session.run("print(guest.gate)") == "open\n"
    assert modes_of(logged) == ["Mapped", "Mapped"]
    warnings = [entry for entry in logged if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in warnings] == ["vmm.restore.spoiled"]
    assert "unknown variant `CopyOnWrite`" in warnings[0]["why"]


@pytest.mark.parametrize("lab", ["v54.0"], indirect=True)
async def test_a_mode_that_silently_copies_everything_is_noticed_and_not_used_again(
    lab: Lab,
) -> None:
    shape = Machine(memory_mib=96, vcpus=1)
    lab.stand_in.set(["degraded"], data_bytes=96 * MIB)
    template = await lab.freeze(shape)
    with structlog.testing.capture_logs() as logged:
        async with lab.session(template) as session:
            assert private_bytes(session.vm.record.pid) > 96 * MIB
        async with lab.session(template) as session:
            assert private_bytes(session.vm.record.pid) < 48 * MIB
    assert modes_of(logged) == ["CopyOnWrite", "Mapped"]
    (warning,) = [entry for entry in logged if entry["log_level"] == "warning"]
    assert (warning["event"], warning["mode"]) == ("vmm.restore.spoiled", "CopyOnWrite")
    template.close()


# -- finding again --------------------------------------------------------------------------------


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a console kept may come late from who gets no turn."""
    monkeypatch.setattr("agentd.vmm.cloud_hypervisor_machine._QUIET_S", 2.0)


@pytest.mark.usefixtures("patience")
async def test_a_machine_of_an_earlier_daemon_is_found_adopted_and_spoken_to(
    lab: Lab, template: LoadedTemplate
) -> None:
    started = await lab.fork(template)
    async with await GuestChannel.over(started.channel, name="fork") as channel:
        await run(channel, "kept = 5")
    successor = lab.open()
    assert successor.find_all() == [started.vm.record]
    heir = successor.adopt(started.vm.record)
    assert isinstance(heir, CloudMachine)
    async with await connect(heir) as channel:
        assert await run(channel, "print(kept)") == "5\n"
    assert "stand-in guest" in await heir.console_tail(deadline_s=5)
    heir.release()
    assert started.vm.is_running
    await started.vm.kill()
    assert successor.find_all() == []
    assert successor.adopt(started.vm.record) is None
    successor.close()


async def test_machines_of_others_are_not_found(lab: Lab) -> None:
    vm = await lab.boot()
    stranger = lab.stand_in.driver(lab.vms_dir, "another-installation")
    assert stranger.find_all() == []
    stranger.close()
    await vm.kill()


async def test_a_process_of_another_user_is_nobodys_machine(lab: Lab) -> None:
    """Anybody can give a process any name."""
    vm = await lab.boot()
    me = os.geteuid()

    def found(own_uid: int, machines_uid: int) -> list[VmRecord]:
        users = lambda _vm_id: (machines_uid, machines_uid)  # noqa: E731
        finder = Finder(lab.installation, lab.vms_dir, users, named_by_first_word, own_uid)
        return finder.find_all()

    assert found(own_uid=me, machines_uid=12345) == [vm.record]
    assert found(own_uid=12345, machines_uid=me) == [vm.record]
    assert found(own_uid=12345, machines_uid=54321) == []
    await vm.kill()


async def test_a_process_that_took_a_machines_number_is_not_adopted(lab: Lab) -> None:
    vm = await lab.boot()
    stranger = replace(vm.record, create_time_ticks=1)
    assert lab.driver.adopt(stranger) is None
    await vm.kill()


async def test_a_group_that_stays_a_moment_longer_is_removed(lab: Lab) -> None:
    """KVM has a thread of the kernel's in it, which outlasts the machine a little."""

    class SlowTree(CgroupTree):
        removals = 0

        def has(self, vm_id: str) -> bool:
            return SlowTree.removals < 3

        def remove(self, vm_id: str) -> None:
            SlowTree.removals += 1

    driver = lab.open(cgroups=SlowTree(None))
    vm = await driver.boot(lab.boot_spec())
    await vm.kill()
    assert SlowTree.removals == 3
    driver.close()


async def test_a_machine_that_was_released_keeps_its_group(lab: Lab) -> None:
    class Tree(CgroupTree):
        def has(self, vm_id: str) -> bool:
            raise AssertionError("it is a successor's now")

    driver = lab.open(cgroups=Tree(None))
    vm = await driver.boot(lab.boot_spec())
    vm.release()
    await vm.kill()
    driver.close()
    heir = lab.driver.adopt(vm.record)
    assert heir is not None
    await heir.kill()
    await asyncio.to_thread(os.waitpid, vm.record.pid, 0)


async def test_killing_removes_everything_and_says_how_it_ended(lab: Lab) -> None:
    vm = await lab.boot()
    assert repr(vm).startswith(f"<Machine {vm.record.vm_id} ")
    await vm.kill()
    assert await vm.wait() == "was killed by SIGKILL"
    assert lab.left() == []


# -- console --------------------------------------------------------------------------------------


async def test_the_console_of_a_boot_is_kept_beyond_its_end(lab: Lab) -> None:
    vm = await lab.boot()
    os.kill(vm.record.pid, 9)
    await vm.wait()
    assert "stand-in guest" in await vm.console_tail(deadline_s=1)
    await vm.kill()
    assert await vm.console_tail(deadline_s=1) == ""


@pytest.mark.usefixtures("patience")
async def test_what_a_forks_console_gave_once_is_kept(lab: Lab, template: LoadedTemplate) -> None:
    async with lab.session(template) as session:
        first = await session.vm.console_tail(deadline_s=5)
        assert "stand-in guest" in first
        assert await session.vm.console_tail(deadline_s=5) == first


@pytest.mark.parametrize("lab", ["v52.0"], indirect=True)
async def test_a_version_whose_console_forgets_has_none(lab: Lab, template: LoadedTemplate) -> None:
    async with lab.session(template) as session:
        assert await session.vm.console_tail(deadline_s=5) == ""


async def test_a_console_that_leads_elsewhere_is_not_read(tmp_path: Path) -> None:
    """A machine's directory is its user's, who may be its guest by now."""
    with socket.socket(socket.AF_UNIX) as secret:
        secret.bind(str(tmp_path / "secret"))
        secret.listen()
        (tmp_path / "console").symlink_to("secret")
        assert await read_console(tmp_path / "console", deadline_s=5) == b""
        secret.setblocking(False)
        with pytest.raises(BlockingIOError):
            secret.accept()


# -- the host -------------------------------------------------------------------------------------


def test_a_host_without_the_program_or_the_device_is_told(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = lab.open(binary="/nonexistent/cloud-hypervisor")
    with pytest.raises(ConfigError, match="/nonexistent/cloud-hypervisor") as caught:
        missing.check()
    assert caught.value.hint
    missing.close()
    monkeypatch.setattr("agentd.vmm.cloud_hypervisor.KVM_DEVICE", str(lab.directory / "no-kvm"))
    with pytest.raises(ConfigError, match="no-kvm"):
        lab.driver.check()
    (lab.directory / "no-kvm").touch()
    lab.driver.check()


async def test_a_template_of_another_version_or_shape_is_not_forked(
    lab: Lab, template: LoadedTemplate
) -> None:
    other = lab.open(version="v52.0")
    with pytest.raises(PermanentError, match=r"monitor version was 'v53\.0'") as caught:
        await lab.fork(template, other)
    assert caught.value.code is ErrorCode.TEMPLATE_INCOMPATIBLE
    other.close()


async def test_a_template_whose_memory_was_cut_is_not_forked(
    lab: Lab, template: LoadedTemplate
) -> None:
    longer = os.fstat(template.memory_fd).st_size + 4096
    memory = msgspec.structs.replace(template.manifest.memory, size_bytes=longer)
    manifest = msgspec.structs.replace(template.manifest, memory=memory)
    broken = LoadedTemplate(manifest, template.memory_fd, template.state_fd)
    with pytest.raises(PermanentError, match="has 4194304 bytes in memory"):
        await lab.fork(broken)


async def test_starts_do_not_wait_for_each_other(lab: Lab, template: LoadedTemplate) -> None:
    begun = time.monotonic()
    forks = await asyncio.gather(*(lab.fork(template) for _ in range(4)))
    assert len({fork.vm.record.pid for fork in forks}) == 4
    for fork in forks:
        fork.channel.sock.close()
        await fork.vm.kill()
    assert time.monotonic() - begun < DEADLINE_S
