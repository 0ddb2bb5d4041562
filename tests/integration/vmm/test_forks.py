"""A fork of a real template: what it may do, what it leaves."""

from __future__ import annotations

import asyncio
import ctypes
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentd import native
from agentd.store.loaded import LoadedTemplate
from agentd.vmm.machine import Machine
from agentd.vmm.vmm import VmRecord
from tests.integration.conftest import UID_BASE
from tests.integration.vmm.support import Lab

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run machines as others")


def read_of(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def status_of(pid: int) -> dict[str, str]:
    lines = read_of(pid, "status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def chunk_hashes(template: LoadedTemplate) -> tuple[str, ...]:
    size_bytes = template.manifest.memory.size_bytes
    return native.copy_memory(template.memory_fd, -1, size_bytes).chunk_hashes


async def test_forks_write_to_memory_of_their_own_only(lab: Lab, template: LoadedTemplate) -> None:
    for _ in range(2):
        async with lab.session(template) as session:
            assert await session.run("print('mine' in globals())") == "False\n"
            await session.run("mine = bytearray(b'x' * (8 << 20)); open('/tmp/mine', 'w').close()")
            assert await session.run("print(len(mine))") == f"{8 << 20}\n"
    assert chunk_hashes(template) == template.manifest.memory.chunk_hashes


async def test_a_fork_is_confined_and_its_guest_has_no_network(
    lab: Lab, template: LoadedTemplate
) -> None:
    async with lab.session(template) as session:
        record = session.started.vm.record
        status = status_of(record.pid)
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        if os.geteuid() == 0:
            uids = {int(uid) for uid in status["Uid"].split()}
            assert len(uids) == 1
            assert uids.pop() >= UID_BASE
            assert status["Groups"] == ""
            for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(status[kind], 16) == 0, kind
        argv = read_of(record.pid, "cmdline").split("\0")
        assert not [word for word in argv if word.startswith(("-net", "-nic"))]
        assert not [word for word in argv if "virtio-net" in word or "e1000" in word]
        assert await session.run("import os; print(os.listdir('/sys/class/net'))") == "['lo']\n"
        root = lab.qemu._cgroups.root
        if root is not None:
            unified = read_of(record.pid, "cgroup")
            installation = lab.qemu._settings.installation
            assert f"/snapstart-{installation}-{record.vm_id}\n" in unified
    assert not lab.leftovers(record.vm_id)
    assert not record.run_dir.exists()


async def test_only_the_owner_reaches_the_sockets_of_a_machine(
    lab: Lab, template: LoadedTemplate
) -> None:
    async with lab.session(template) as session:
        run_dir = session.started.vm.record.run_dir
        assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
        assert {path.name for path in run_dir.iterdir()} == {
            "channel.sock", "qmp.sock", "vmm.log",
        }  # fmt: skip
        assert all(path.stat().st_uid == os.geteuid() for path in run_dir.iterdir())


@as_root
async def test_the_user_of_a_machine_cannot_write_to_the_template(
    lab: Lab, template: LoadedTemplate
) -> None:
    path = f"/proc/self/fd/{template.memory_fd}"

    def try_to_write() -> list[type[BaseException] | None]:
        """In a thread of its own: setfsuid(2) is per thread, and decides what open(2) may."""
        libc = ctypes.CDLL(None)
        libc.setfsuid(UID_BASE)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return [refusal(os.pwrite, fd, b"x", 0), refusal(os.ftruncate, fd, 0)]
        finally:
            os.close(fd)
            libc.setfsuid(0)

    assert await asyncio.to_thread(try_to_write) == [PermissionError, PermissionError]


def refusal(call: Callable[..., object], *arguments: object) -> type[BaseException] | None:
    try:
        call(*arguments)
    except OSError as exc:
        return type(exc)
    return None


def reap(pid: int) -> None:
    """Our child, which an adopter's machine never is."""
    os.waitpid(pid, 0)


async def test_a_successor_adopts_a_released_machine(lab: Lab, template: LoadedTemplate) -> None:
    started = await lab.fork(template)
    started.channel.sock.close()
    record = started.vm.record
    assert record in lab.qemu.find_all()
    waiting = asyncio.create_task(started.vm.wait())
    await asyncio.sleep(0)
    started.vm.release()
    assert await waiting == "released"
    await started.vm.kill()
    assert record in lab.qemu.find_all(), "kill after release must leave the machine alone"

    assert lab.qemu.adopt(replace(record, create_time_ticks=record.create_time_ticks + 1)) is None
    heir = lab.qemu.adopt(record)
    assert heir is not None
    await asyncio.gather(heir.kill(), heir.kill())
    reap(record.pid)
    assert not lab.leftovers(record.vm_id)
    assert not record.run_dir.exists()
    assert lab.qemu.adopt(record) is None


async def test_a_machine_that_is_killed_by_others_says_how_it_ended(
    lab: Lab, template: LoadedTemplate
) -> None:
    started = await lab.fork(template)
    started.channel.sock.close()
    os.kill(started.vm.record.pid, 9)
    assert await started.vm.wait() == "was killed by SIGKILL"
    assert not started.vm.is_running
    await started.vm.kill()
    assert isinstance(started.vm, Machine)
    assert isinstance(started.vm.record, VmRecord)
