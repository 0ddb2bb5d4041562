"""The life of one process, whoever started it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import InvariantError
from agentd.store.memfd import create_memfd
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.find import read_start_ticks
from agentd.vmm.machine import Booted, ConsoleLog, Machine
from agentd.vmm.vmm import VmRecord
from agentd.wire.manifest import Machine as Shape


class Sleeper:
    """A child that sleeps, to be owned by a Machine."""

    def __init__(self, run_dir: Path, argv: tuple[str, ...] = ("sleep", "600")) -> None:
        run_dir.mkdir()
        (run_dir / "vmm.log").write_text("")
        self.process = subprocess.Popen(argv)
        ticks = read_start_ticks(self.process.pid)
        assert ticks is not None
        self.record = VmRecord("s-1", run_dir, self.process.pid, ticks)

    def machine(
        self,
        *,
        is_child: bool = True,
        booted: Booted | None = None,
        console: ConsoleLog | None = None,
    ) -> Machine:
        if is_child:
            self.process.returncode = 0  # the machine reaps it
        pidfd = os.pidfd_open(self.record.pid)
        return Machine(
            self.record,
            pidfd,
            is_child=is_child,
            cgroups=CgroupTree(None),
            booted=booted,
            console=console,
        )

    def reap(self) -> None:
        os.waitpid(self.record.pid, 0)

    def end(self) -> None:
        self.process.returncode = None
        self.process.kill()
        self.process.wait()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Sleeper]:
    child = Sleeper(tmp_path / "vm")
    yield child
    child.end()


async def test_kill_ends_reaps_and_removes(sleeper: Sleeper) -> None:
    machine = sleeper.machine()
    assert machine.is_running
    assert repr(machine) == f"<Machine s-1 pid={sleeper.record.pid} running>"
    assert machine.channel_path == sleeper.record.run_dir / "channel.sock"
    await machine.kill()
    assert not machine.is_running
    assert not sleeper.record.run_dir.exists()
    assert await machine.wait() == "was killed by SIGKILL"
    await machine.kill()


async def test_two_kills_at_once_both_see_the_end(sleeper: Sleeper) -> None:
    machine = sleeper.machine()
    await asyncio.gather(machine.kill(), machine.kill(), machine.kill())
    assert not machine.is_running


async def test_a_cancelled_kill_is_carried_out_before_it_is_cancelled(sleeper: Sleeper) -> None:
    machine = sleeper.machine()
    killing = asyncio.create_task(machine.kill())
    await asyncio.sleep(0)
    killing.cancel()
    await asyncio.sleep(0)
    killing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killing
    assert not machine.is_running
    assert not sleeper.record.run_dir.exists()


async def test_a_timeout_around_kill_is_a_timeout(sleeper: Sleeper) -> None:
    machine = sleeper.machine()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await machine.kill()
    assert not machine.is_running


async def test_who_waits_may_be_cancelled_without_harm(sleeper: Sleeper) -> None:
    machine = sleeper.machine()
    waits = [asyncio.create_task(machine.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    waits[0].cancel()
    await asyncio.wait({waits[0]})
    await machine.kill()
    assert await waits[1] == "was killed by SIGKILL"


async def test_an_exit_status_is_told(tmp_path: Path) -> None:
    child = Sleeper(tmp_path / "vm", ("sh", "-c", "exit 3"))
    machine = child.machine()
    assert await machine.wait() == "exited with status 3"
    await machine.kill()


async def test_a_child_that_somebody_else_reaped_has_ended(tmp_path: Path) -> None:
    child = Sleeper(tmp_path / "vm", ("true",))
    machine = child.machine()
    child.reap()
    assert await machine.wait() == "ended"
    await machine.kill()


async def test_release_leaves_the_process_and_its_files(sleeper: Sleeper) -> None:
    machine = sleeper.machine()
    waiting = asyncio.create_task(machine.wait())
    await asyncio.sleep(0)
    machine.release()
    machine.release()
    assert await waiting == "released"
    assert await machine.wait() == "released"
    assert repr(machine).endswith("released>")
    await machine.kill()
    assert read_start_ticks(sleeper.record.pid) == sleeper.record.create_time_ticks
    assert sleeper.record.run_dir.exists()


async def test_release_in_the_middle_of_a_kill_ends_the_wait(sleeper: Sleeper) -> None:
    machine = sleeper.machine()
    killing = asyncio.create_task(machine.kill())
    await asyncio.sleep(0)
    machine.release()
    await killing
    assert sleeper.record.run_dir.exists()


async def test_an_adopted_machine_is_waited_for_but_not_reaped(sleeper: Sleeper) -> None:
    machine = sleeper.machine(is_child=False)
    await machine.kill()
    assert await machine.wait() == "ended"
    assert sleeper.process.wait() == -9, "still there to be reaped by its parent"


async def test_kill_does_without_a_run_directory(sleeper: Sleeper) -> None:
    machine = sleeper.machine(is_child=False)
    (sleeper.record.run_dir / "vmm.log").unlink()
    sleeper.record.run_dir.rmdir()
    await machine.kill()
    assert not machine.is_running


def test_a_machine_outlives_the_event_loop_that_waited_for_it(sleeper: Sleeper) -> None:
    machine = sleeper.machine()

    async def wait_a_little() -> None:
        waiting = asyncio.create_task(machine.wait())
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(wait_a_little())
    asyncio.run(machine.kill())
    assert not machine.is_running


def test_release_works_after_the_event_loop_is_closed(sleeper: Sleeper) -> None:
    machine = sleeper.machine()

    async def wait_a_little() -> None:
        waiting = asyncio.create_task(machine.wait())
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(wait_a_little())
    machine.release()
    assert repr(machine).endswith("released>")


async def test_memory_is_given_back_with_the_machine(sleeper: Sleeper) -> None:
    memory_fd = create_memfd("test")
    machine = sleeper.machine(booted=Booted(memory_fd, Shape(1, 1)))
    await machine.kill()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(memory_fd)
    with pytest.raises(InvariantError):
        machine.take_memory()


async def test_memory_that_was_taken_is_the_takers(sleeper: Sleeper) -> None:
    memory_fd = create_memfd("test")
    machine = sleeper.machine(booted=Booted(memory_fd, Shape(1, 1)))
    assert machine.take_memory().memory_fd == memory_fd
    await machine.kill()
    os.close(memory_fd)


def test_a_machine_that_is_forgotten_warns_and_closes_what_it_owns(sleeper: Sleeper) -> None:
    machine = sleeper.machine(booted=Booted(create_memfd("test"), Shape(1, 1)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del machine
    assert ["neither killed nor released" in str(one.message) for one in caught] == [True]


def test_the_start_of_a_process_names_it() -> None:
    ticks = read_start_ticks(os.getpid())
    assert ticks is not None
    assert ticks > 0
    assert read_start_ticks(os.getpid()) == ticks
    assert read_start_ticks(2**22 + 1) is None


def test_a_name_with_spaces_and_brackets_does_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / "a) 1 (b"
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE) as child:
        ticks = read_start_ticks(child.pid)
        ours = read_start_ticks(os.getpid())
        assert ticks is not None
        assert ours is not None
        assert ticks >= ours
        child.kill()


@pytest.mark.parametrize("end", ["kill", "release"])
async def test_the_console_of_a_machine_that_was_booted_outlives_it(
    sleeper: Sleeper, end: str
) -> None:
    fd = create_memfd("console")
    os.pwrite(fd, b"x" * 9000 + b"\xffKernel panic", 0)
    machine = sleeper.machine(console=ConsoleLog(fd))
    os.kill(sleeper.record.pid, signal.SIGKILL)
    await machine.wait()
    tail = await machine.console_tail(deadline_s=1)
    assert len(tail) == 4096
    assert tail.endswith("x\ufffdKernel panic")
    if end == "kill":
        await machine.kill()
    else:
        machine.release()
    assert await machine.console_tail(deadline_s=1) == ""
