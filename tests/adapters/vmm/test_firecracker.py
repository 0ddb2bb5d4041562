"""Machines of Firecracker, against a stand-in that speaks its interface; see test_firecracker_real
for the program itself.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.errors import (
    ConfigError,
    ErrorCode,
    InvariantError,
    PeerError,
    PermanentError,
    SnapStartError,
    TransientError,
)
from agentd.store.memfd import create_memfd, is_sealed, seal_memfd
from agentd.units import MIB
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.machine import Machine
from agentd.vmm.vmm import Started
from tests.conftest import open_fds
from tests.fakes.firecracker import StandIn, build_launcher
from tests.fakes.firecracker_world import DEADLINE_S, SHAPE, World, prepare_of, run, spoilt, talking


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_launcher(tmp_path_factory.mktemp("firecracker"))


@pytest.fixture
def root() -> Iterator[Path]:
    """Short enough for socket paths."""
    path = Path(tempfile.mkdtemp(prefix="fc-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def world(root: Path, launcher: Path) -> Iterator[World]:
    made = World(root, StandIn(launcher, root / "bin"))
    yield made
    made.close()


def unsealed(size_bytes: int) -> int:
    """A memfd of that size; owned by the caller."""
    fd = create_memfd("test")
    os.ftruncate(fd, size_bytes)
    return fd


def sealed(data: bytes) -> int:
    """A sealed memfd with these bytes; owned by the caller."""
    fd = unsealed(len(data))
    os.pwrite(fd, data, 0)
    seal_memfd(fd)
    return fd


def reap(pid: int) -> None:
    """Of a machine that was adopted: here its first daemon is ourselves."""
    os.waitpid(pid, 0)


def files_of(pid: int) -> set[str]:
    """What a process has open, but pipes, sockets and the like."""
    links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    return {text for text in links if text.startswith("/")}


async def end(started: Started) -> None:
    """Of a machine that nobody talks to."""
    started.channel.sock.close()
    await started.vm.kill()


# -- a machine's life -----------------------------------------------------------------------------


async def test_a_machine_is_booted_frozen_forked(world: World) -> None:
    async with world.template() as template:
        started = await world.fork(template)
        async with talking(started) as channel:
            assert await run(channel, "print(guest.identity['session_id'])") == "s-1\n"
    assert world.driver.find_all() == []
    assert list(world.vms_dir.iterdir()) == []


async def test_two_forks_of_one_template_do_not_see_what_the_other_does(world: World) -> None:
    async with world.template() as template:
        first, second = await world.fork(template, "s-1"), await world.fork(template, "s-2")
        async with talking(first) as one, talking(second) as other:
            await run(one, "guest.memory.write(b'mine')")
            assert "mine" not in await run(other, "print(bytes(guest.memory.map[8192:8196]))")
            names = [
                await run(each, "print(guest.identity['session_id'])") for each in (one, other)
            ]
    assert names == ["s-1\n", "s-2\n"]


async def test_the_memory_that_is_kept_is_sealed_and_has_no_zeros(world: World) -> None:
    saved = await world.checkpoint()
    try:
        assert is_sealed(saved.memory_fd)
        assert is_sealed(saved.state_fd)
        status = os.fstat(saved.memory_fd)
        assert status.st_size == SHAPE.memory_mib * MIB
        assert 0 < status.st_blocks * 512 < status.st_size // 10
        assert list(saved.stages_ms) == ["stop", "save", "keep"]
    finally:
        os.close(saved.memory_fd)
        os.close(saved.state_fd)


async def test_a_session_can_be_booted_cold(world: World) -> None:
    started = await world.driver.boot_session(
        world.boot_spec("s-1"), prepare_of("s-1"), deadline_s=DEADLINE_S
    )
    async with talking(started) as channel:
        assert "reboot=k" in await run(channel, "print(guest.memory.guest()['cmdline'])")


async def test_the_stages_of_a_fork_come_one_after_the_other(world: World) -> None:
    async with world.template() as template:
        started = await world.fork(template)
        await end(started)
    assert list(started.stages_ms) == ["spawn", "load", "resume", "inject", "guest_ready"]
    assert list(started.stages_ms.values()) == sorted(started.stages_ms.values())


async def test_what_the_guest_prints_is_its_console_also_for_a_successor(world: World) -> None:
    async with world.template() as template:
        started = await world.fork(template)
        assert "stand-in guest" in await started.vm.console_tail(deadline_s=1)
        started.channel.sock.close()
        started.vm.release()
        successor = world.driver.adopt(started.vm.record)
        assert successor is not None
        assert "stand-in guest" in await successor.console_tail(deadline_s=1)
        await successor.kill()
        reap(successor.record.pid)
        assert await successor.console_tail(deadline_s=1) == ""


async def test_a_console_takes_no_more_than_its_size(world: World) -> None:
    async with world.template() as template:
        started = await world.fork(template)
        async with talking(started) as channel:
            await run(channel, "[guest.console(b'x' * 65536) for _ in range(100)]")
            assert await run(channel, "print('still there')") == "still there\n"
            assert (await started.vm.console_tail(deadline_s=1)).endswith("xxx")


async def test_a_machine_of_an_earlier_daemon_is_found_and_ended(world: World) -> None:
    async with world.template() as template:
        started = await world.fork(template)
        started.channel.sock.close()
        started.vm.release()
        (record,) = world.new_driver().find_all()
        assert record == started.vm.record
        machine = world.driver.adopt(record)
        assert machine is not None
        await machine.kill()
        reap(record.pid)
    assert world.driver.adopt(record) is None


async def test_a_machine_of_another_installation_is_left_alone(world: World) -> None:
    async with world.template() as template:
        started = await world.fork(template)
        world.installation = "other"
        assert world.new_driver().find_all() == []
        await end(started)


async def test_a_guest_that_ends_is_noticed_with_what_its_monitor_says(world: World) -> None:
    async with world.template() as template:
        started = await world.fork(template)
        async with talking(started) as channel:
            with pytest.raises(SnapStartError):
                await run(channel, "import os; os._exit(0)")
            assert await started.vm.wait() == "exited with status 0 (its guest ended)"


async def test_the_monitor_inherits_nothing_but_what_it_needs(world: World) -> None:
    async with world.template() as template:
        started = await world.fork(template)
        held = files_of(started.vm.record.pid)
        run_dir = started.vm.record.run_dir
        await end(started)
    assert held == {
        "/dev/null",
        "/memfd:snapstart:s-1-console (deleted)",
        "/memfd:snapstart:t-1-memory (deleted)",
        "/memfd:snapstart:t-1-state (deleted)",
        str(run_dir / "vm"),
        str(run_dir / "vmm.log"),
    }


async def test_a_start_keeps_no_descriptor_but_the_machine_s(world: World) -> None:
    async with world.template() as template:
        warm = await world.fork(template)  # threads, the watch
        await end(warm)
        before = open_fds()
        started = await world.fork(template, "s-2")
        await end(started)
        assert open_fds() == before


# -- who may not, what does not fit ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"host_cpu": "another CPU, Linux 6.18"}, "host CPU was 'another CPU, Linux 6.18'"),
        ({"version": "1.15.1 (snapshot format 9.0)"}, "monitor version was '1.15.1"),
        ({"version": "1.16.1 (snapshot format 10.1)"}, "monitor version was '1.16.1"),
        ({"engine": "qemu"}, "monitor was 'qemu'"),
        ({"device_argv": ("vcpu_count=2",)}, "device argument 0 was 'vcpu_count=2'"),
    ],
    ids=["cpu", "older_format", "newer_format", "monitor", "devices"],
)
async def test_a_template_that_does_not_fit_is_not_tried(
    world: World, facts: dict[str, object], words: str
) -> None:
    async with world.template() as template:
        with pytest.raises(PermanentError, match=words) as caught:
            await world.driver.fork(
                spoilt(template, **facts), world.fork_spec(), deadline_s=DEADLINE_S
            )
    assert caught.value.code is ErrorCode.TEMPLATE_INCOMPATIBLE


async def test_a_template_of_another_release_with_the_same_format_is_forked(world: World) -> None:
    async with world.template() as template:
        older = spoilt(template, version="1.16.0 (snapshot format 10.0)")
        started = await world.fork(older)
        await end(started)


async def test_a_monitor_that_was_replaced_under_the_daemon_boots_nothing(world: World) -> None:
    world.stand_in.version = "1.15.1"
    world.stand_in.set()
    with pytest.raises(ConfigError, match=r"'1\.15\.1', not 1\.16\.1"):
        await world.driver.boot(world.boot_spec())


async def test_a_state_of_another_format_is_an_incompatible_template(world: World) -> None:
    async with world.template() as template:
        world.stand_in.version = "1.15.1"
        world.stand_in.set()
        with pytest.raises(PermanentError, match=r"Invalid data version: 10\.0\.0") as caught:
            await world.fork(template)
    assert caught.value.code is ErrorCode.TEMPLATE_INCOMPATIBLE


async def test_only_a_machine_of_its_own_that_was_booted_is_frozen(world: World) -> None:
    async with world.template() as template:
        started = await world.fork(template)
        with pytest.raises(InvariantError, match="was not booted"):
            await world.driver.checkpoint(started.vm, deadline_s=1)
        assert started.vm.is_running
        record = started.vm.record
        stranger = Machine(record, os.pidfd_open(record.pid), is_child=False,
                           cgroups=CgroupTree(None))  # fmt: skip
        with pytest.raises(InvariantError, match="not its own"):
            await world.driver.checkpoint(stranger, deadline_s=1)
        stranger.release()
        await end(started)


async def test_a_program_that_is_gone_is_named(world: World) -> None:
    world.stand_in.binary.unlink()
    with pytest.raises(ConfigError) as caught:
        world.driver.check()
    assert caught.value.code is ErrorCode.MONITOR_MISSING
    with pytest.raises(ConfigError) as caught:
        await world.driver.boot(world.boot_spec())
    assert caught.value.code is ErrorCode.MONITOR_MISSING
    assert str(world.stand_in.binary) in str(caught.value)


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (148, "exited with status 148 .it made a system call that its filter does not allow"),
        (153, "exited with status 153 .it does not know an argument"),
        (77, "the monitor exited with status 77; .*the stand-in was told to end"),
    ],
)
async def test_a_monitor_that_ends_at_once_is_explained(
    world: World, status: int, words: str
) -> None:
    world.stand_in.set(exits_at_start=status)
    with pytest.raises(PeerError, match=words) as caught:
        await world.driver.boot(world.boot_spec())
    assert caught.value.code is ErrorCode.VMM_FAILED
    assert not list(world.vms_dir.iterdir())


async def test_a_socket_that_comes_late_is_waited_for(world: World) -> None:
    world.stand_in.set(binds_after_s=0.3)
    machine = await world.driver.boot(world.boot_spec())
    await machine.kill()


async def test_a_socket_that_never_comes_ends_with_the_deadline(world: World) -> None:
    async with world.template() as template:
        world.stand_in.set(binds_after_s=60)
        with pytest.raises(TransientError, match="nobody listens") as caught:
            await world.driver.fork(template, world.fork_spec(), deadline_s=0.5)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert not list(world.vms_dir.iterdir())


@pytest.mark.parametrize(
    ("faults", "kind", "code", "words"),
    [
        ({"dies": {"PUT /snapshot/load": 149}}, PeerError, ErrorCode.VMM_FAILED,
         "PUT /snapshot/load.*; the monitor exited with status 149 .SIGBUS"),
        ({"hangs": ["PUT /snapshot/load"]}, TransientError, ErrorCode.DEADLINE_EXCEEDED,
         "no answer in"),
        ({"says": {"PUT /snapshot/load": "what?\r\n\r\n"}}, PeerError, ErrorCode.VMM_PROTOCOL,
         "PUT /snapshot/load"),
        ({"faults": ["reject"]}, PeerError, ErrorCode.GUEST_REJECTED, "resource_exhausted"),
        ({"faults": ["silent"]}, PeerError, ErrorCode.GUEST_NOT_READY, "READY in time"),
        ({"faults": ["vsock_full"]}, PeerError, ErrorCode.GUEST_NOT_READY, "no connection in"),
    ],
    ids=["dies", "hangs", "babbles", "rejects", "guest_silent", "vsock_full"],
)  # fmt: skip
async def test_a_fork_that_fails_says_why_and_leaves_nothing(
    world: World,
    faults: dict[str, object],
    kind: type[SnapStartError],
    code: ErrorCode,
    words: str,
) -> None:
    is_waited_for = "hangs" in faults or faults.get("faults") in (["silent"], ["vsock_full"])
    deadline_s = 10.0 if is_waited_for else DEADLINE_S
    async with world.template() as template:
        world.stand_in.set(**faults)
        before = set(open_fds())
        with pytest.raises(kind, match=words) as caught:
            await world.driver.fork(template, world.fork_spec(), deadline_s=deadline_s)
        assert caught.value.code is code
        assert len(set(open_fds()) - before) <= 1, "the watch, which stays for the next start"
    assert not list(world.vms_dir.iterdir())


async def test_a_load_that_fails_says_what_the_monitor_said_and_how_it_ended(world: World) -> None:
    """Something is where its socket shall be: it answers, then ends."""
    async with world.template() as template:
        world.stand_in.set(litter=["channel"])
        with pytest.raises(PeerError) as caught:
            await world.fork(template)
    text = str(caught.value)
    assert text.startswith("starting machine s-1: the monitor refused PUT /snapshot/load (400): ")
    assert "Error binding to the host-side Unix socket: Address already in use" in text
    assert "; the monitor exited with status 1 (an error of its own, see its log)" in text
    assert "; the monitor said: [s-1:main:ERROR] Received Error" in text
    assert not list(world.vms_dir.iterdir())


async def test_a_monitor_that_failed_is_never_used_again(world: World) -> None:
    async with world.template() as template:
        world.stand_in.set(litter=["channel"])
        with pytest.raises(PeerError):
            await world.fork(template)
        world.stand_in.set()
        started = await world.fork(template, "s-2")
        assert started.vm.record.run_dir.name == "s-2"
        await end(started)


async def test_a_first_connection_that_a_restored_guest_loses_is_made_again(world: World) -> None:
    async with world.template() as template:
        world.stand_in.set(muted_connections=1, refused_connections=2)
        started = await world.fork(template)
        async with talking(started) as channel:
            assert await run(channel, "print(1)") == "1\n"


async def test_a_state_that_was_damaged_is_a_corrupt_template(world: World) -> None:
    async with world.template() as template:
        state = bytearray(os.pread(template.state_fd, 1 << 20, 0))
        state[40] ^= 1
        other = replace(template, state_fd=sealed(bytes(state)))
        with pytest.raises(PermanentError, match="CRC64") as caught:
            await world.fork(other)
        os.close(other.state_fd)
    assert caught.value.code is ErrorCode.TEMPLATE_CORRUPT


async def test_memory_that_is_not_sealed_is_not_forked(world: World) -> None:
    async with world.template() as template:
        size_bytes = template.manifest.memory.size_bytes
        other = replace(template, memory_fd=unsealed(size_bytes))
        with pytest.raises(InvariantError, match="not sealed"):
            await world.driver.fork(other, world.fork_spec(), deadline_s=1)
        os.close(other.memory_fd)


@pytest.mark.parametrize("when", ["PATCH /vm", "PUT /snapshot/create"])
async def test_a_monitor_that_dies_while_it_is_frozen_leaves_nothing(
    world: World, when: str
) -> None:
    world.stand_in.set(dies={when: 150})
    machine = await world.driver.boot(world.boot_spec())
    with pytest.raises(PeerError, match=r"freezing machine t-1.*SIGSEGV"):
        await world.driver.checkpoint(machine, deadline_s=5)
    assert not list(world.vms_dir.iterdir())


async def test_a_freeze_that_takes_too_long_ends_the_machine(world: World) -> None:
    world.stand_in.set(hangs=["PUT /snapshot/create"])
    machine = await world.driver.boot(world.boot_spec())
    with pytest.raises(TransientError, match="no answer in"):
        await world.driver.checkpoint(machine, deadline_s=0.5)
    assert not machine.is_running


async def test_a_snapshot_that_does_not_fit_says_that_the_disk_is_full(world: World) -> None:
    """RLIMIT_FSIZE stands for it: both are an error of write(2)."""
    machine = await world.driver.boot(world.boot_spec())
    pid = machine.record.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (MIB, MIB))
    with pytest.raises(TransientError, match=r"\(os error 27\)") as caught:
        await world.driver.checkpoint(machine, deadline_s=5)
    assert caught.value.code is ErrorCode.DISK_FULL
    assert not list(world.vms_dir.iterdir())


async def test_a_monitor_that_says_it_saved_and_did_not_is_not_believed(world: World) -> None:
    world.stand_in.set(says={"PUT /snapshot/create": "HTTP/1.1 204 \r\n\r\n"})
    machine = await world.driver.boot(world.boot_spec())
    with pytest.raises(PeerError, match="saved 0 bytes of memory, where 4194304 are due"):
        await world.driver.checkpoint(machine, deadline_s=5)


# -- being told to stop ---------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3])
async def test_a_fork_that_is_cancelled_anywhere_leaves_nothing(
    world: World, after_s: float
) -> None:
    async with world.template() as template:
        for turns in (0, 1, 3):
            starting = asyncio.create_task(world.fork(template))
            await asyncio.sleep(after_s)
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            (outcome,) = await asyncio.gather(starting, return_exceptions=True)
            if not isinstance(outcome, BaseException):
                await end(outcome)
            shutil.rmtree(world.vms_dir / "s-1", ignore_errors=True)
    assert world.driver.find_all() == []


async def test_a_freeze_that_is_cancelled_ends_the_machine(world: World) -> None:
    for after_s in (0.0, 0.005, 0.02, 0.05):
        machine = await world.driver.boot(world.boot_spec())
        freezing = asyncio.create_task(world.driver.checkpoint(machine, deadline_s=5))
        await asyncio.sleep(after_s)
        freezing.cancel()
        (outcome,) = await asyncio.gather(freezing, return_exceptions=True)
        if not isinstance(outcome, BaseException):
            os.close(outcome.memory_fd)
            os.close(outcome.state_fd)
        assert not machine.is_running
        assert not list(world.vms_dir.iterdir())


async def test_several_start_at_once(world: World) -> None:
    async with world.template() as template:
        started = await asyncio.gather(*(world.fork(template, f"s-{n}") for n in range(4)))
        for each in started:
            async with talking(each) as channel:
                name = each.vm.record.vm_id
                assert await run(channel, "print(guest.identity['session_id'])") == f"{name}\n"


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


async def test_a_fork_that_runs_out_of_descriptors_anywhere_gives_all_back(world: World) -> None:
    async with world.template() as template:
        await end(await world.fork(template))  # threads, the watch
        before, outcomes = open_fds(), []
        for count in range(0, 20, 2):
            spec = world.fork_spec()
            with free_descriptors(count):
                (outcome,) = await asyncio.gather(
                    world.driver.fork(template, spec, deadline_s=DEADLINE_S), return_exceptions=True
                )
            if isinstance(outcome, Started):
                await end(outcome)
            outcomes.append(outcome)
            assert open_fds() == before, f"with {count} descriptors left"
            shutil.rmtree(spec.run_dir, ignore_errors=True)
    failures = [one for one in outcomes if isinstance(one, BaseException)]
    assert failures
    assert all(isinstance(one, SnapStartError) for one in failures), failures
    assert isinstance(outcomes[0], TransientError)
    assert isinstance(outcomes[-1], Started), "with enough of them it starts"
