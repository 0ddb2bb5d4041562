"""What a monitor saved is taken over whole, or not at all."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, PeerError, TransientError
from agentd.store.memfd import is_sealed
from agentd.units import MIB
from agentd.vmm.cloud_hypervisor_save import SavedFiles, open_saved, require_space, take_over
from agentd.vmm.cloud_hypervisor_snapshot import decode_snapshot
from agentd.vmm.launch import make_directory, write_file
from agentd.wire.manifest import Machine
from tests.conftest import open_fds
from tests.fakes.cloud_hypervisor import build_launcher
from tests.fakes.cloud_hypervisor_lab import DEADLINE_S, Lab, loaded
from tests.unit.vmm.test_cloud_hypervisor_snapshot import CONFIG, WHOLE

NEVER_NS = 2**63 - 1


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_launcher(tmp_path_factory.mktemp("launcher"))


@pytest.fixture
def lab(launcher: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(launcher, tmp_path, getattr(request, "param", "v53.0")) as opened:
        yield opened


# -- a monitor that saves -------------------------------------------------------------------------


@pytest.mark.parametrize("lab", ["v51.1", "v53.0"], indirect=True)
async def test_what_is_kept_is_what_was_saved_without_its_zeros(lab: Lab) -> None:
    vm = await lab.boot()
    frozen = await lab.driver.checkpoint(vm, deadline_s=DEADLINE_S)
    assert os.fstat(frozen.memory_fd).st_size == 4 * MIB
    assert os.fstat(frozen.memory_fd).st_blocks * 512 <= 64 * 1024
    assert os.pread(frozen.memory_fd, 64, 4096).startswith(b"stand-in guest ")
    snapshot = decode_snapshot(os.pread(frozen.state_fd, MIB, 0))
    assert snapshot.memory_bytes == 4 * MIB
    assert snapshot.config["payload"]["cmdline"] == "quiet"
    loaded(frozen).close()
    assert lab.left() == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("half_state", "state.json is not whole"),
        ("no_memory_file", "there is no memory-ranges"),
        ("short_memory", "memory-ranges has 4190208"),
        ("linked_memory", "Too many levels of symbolic links"),
    ],
)
async def test_a_snapshot_that_is_not_whole_makes_no_template(
    lab: Lab, fault: str, words: str
) -> None:
    lab.stand_in.set([fault])
    vm = await lab.boot()
    before = open_fds()
    with pytest.raises(Exception, match="freezing machine") as caught:
        await lab.driver.checkpoint(vm, deadline_s=DEADLINE_S)
    assert words in str(caught.value)
    assert not vm.is_running
    assert lab.left() == []
    assert open_fds().keys() <= before.keys()


@pytest.mark.parametrize("action", ["vm.pause", "vm.snapshot"])
@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("refuse", ErrorCode.VMM_FAILED),
        ("exit", ErrorCode.VMM_FAILED),
        ("os_error_28", ErrorCode.DISK_FULL),
    ],
)
async def test_a_monitor_that_does_not_save_ends_with_its_machine(
    lab: Lab, action: str, kind: str, code: ErrorCode
) -> None:
    lab.stand_in.set([f"{kind}@{action}"])
    vm = await lab.boot()
    with pytest.raises((PeerError, TransientError), match="freezing machine") as caught:
        await lab.driver.checkpoint(vm, deadline_s=DEADLINE_S)
    assert caught.value.code is code
    assert not vm.is_running
    assert lab.left() == []


async def test_a_monitor_that_hangs_is_ended_at_the_deadline(lab: Lab) -> None:
    lab.stand_in.set(["hang@vm.snapshot"])
    vm = await lab.boot()
    with pytest.raises(TransientError) as caught:
        await lab.driver.checkpoint(vm, deadline_s=0.5)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert not vm.is_running


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5])
async def test_a_checkpoint_that_is_cancelled_ends_the_machine(lab: Lab, turns: int) -> None:
    vm = await lab.boot()
    before = open_fds()
    freezing = asyncio.create_task(lab.driver.checkpoint(vm, deadline_s=DEADLINE_S))
    for _ in range(turns):
        await asyncio.sleep(0.003)
    freezing.cancel()
    await asyncio.wait({freezing})
    if not freezing.cancelled():  # it was faster
        loaded(freezing.result()).close()
    if turns:
        assert not vm.is_running
    await vm.kill()
    assert lab.left() == []
    await asyncio.sleep(0.01)
    assert open_fds().keys() <= before.keys()


async def test_a_machine_whose_memory_does_not_fit_is_not_even_stopped(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = await lab.boot()
    free = os.statvfs(lab.directory)
    full = os.statvfs_result((*free[:3], 0, 0, *free[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    with pytest.raises(TransientError, match="0 MiB are free there") as caught:
        await lab.driver.checkpoint(vm, deadline_s=DEADLINE_S)
    assert caught.value.code is ErrorCode.DISK_FULL
    assert "last event: vm booted" in caught.value.message
    assert lab.left() == []


async def test_a_machine_may_write_its_memory_and_little_more(lab: Lab) -> None:
    """The limit of a file's size: of a machine that is to be saved, and of one that is not."""
    vm = await lab.boot(Machine(memory_mib=64, vcpus=1))
    limits = limits_of(vm.record.pid)
    assert limits == 80 * MIB
    loaded(await lab.driver.checkpoint(vm, deadline_s=DEADLINE_S)).close()
    template = await lab.freeze()
    async with lab.session(template) as session:
        assert limits_of(session.vm.record.pid) == 16 * MIB
    template.close()


def limits_of(pid: int) -> int:
    """RLIMIT_FSIZE of a process."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(int(line.split()[3]) for line in lines if line.startswith("Max file size"))


def test_space_that_is_there_is_enough(tmp_path: Path) -> None:
    require_space(tmp_path, 0)
    with pytest.raises(TransientError):
        require_space(tmp_path, 1 << 60)


# -- the files ------------------------------------------------------------------------------------


def saved_in(directory: Path, memory_bytes: int = 4 * MIB) -> Path:
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "state.json").write_text(json.dumps(WHOLE))
    with (directory / "memory-ranges").open("wb") as file:
        file.write(b"page")
        file.truncate(memory_bytes)
    return directory


def take(saved: SavedFiles) -> tuple[int, int]:
    try:
        return take_over(saved, "vm", 4 * MIB, deadline_ns=NEVER_NS, cancel_fd=-1)
    finally:
        saved.close()


def test_what_was_opened_is_read_whatever_becomes_of_the_names(tmp_path: Path) -> None:
    saved = open_saved(saved_in(tmp_path), os.geteuid())
    for path in tmp_path.iterdir():
        path.unlink()
    memory_fd, state_fd = take(saved)
    assert os.pread(memory_fd, 4, 0) == b"page"
    assert is_sealed(memory_fd)
    assert is_sealed(state_fd)
    os.close(memory_fd)
    os.close(state_fd)


@pytest.mark.parametrize("name", ["config.json", "state.json", "memory-ranges"])
@pytest.mark.parametrize("kind", ["missing", "link", "fifo", "directory"])
def test_what_is_no_file_of_the_machine_is_not_read(tmp_path: Path, name: str, kind: str) -> None:
    path = saved_in(tmp_path) / name
    path.rename(tmp_path / "elsewhere")
    if kind == "link":
        path.symlink_to("elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    with pytest.raises((PeerError, OSError)):
        open_saved(tmp_path, os.geteuid())


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_file_of_somebody_else_is_not_read(tmp_path: Path) -> None:
    os.chown(saved_in(tmp_path) / "memory-ranges", 12345, 12345)
    with pytest.raises(PeerError, match="no file of the machine's user"):
        open_saved(tmp_path, 54321)
    open_saved(tmp_path, 12345).close()


@pytest.mark.parametrize("memory_bytes", [0, 4 * MIB - 4096, 4 * MIB + 4096])
def test_memory_of_another_length_is_refused(tmp_path: Path, memory_bytes: int) -> None:
    before = open_fds()
    with pytest.raises(PeerError, match=f"memory-ranges has {memory_bytes}"):
        take(open_saved(saved_in(tmp_path, memory_bytes), os.geteuid()))
    assert open_fds() == before


def test_copying_ends_at_the_deadline(tmp_path: Path) -> None:
    before = open_fds()
    saved = open_saved(saved_in(tmp_path), os.geteuid())
    with pytest.raises(TransientError) as caught:
        take_over(saved, "vm", 4 * MIB, deadline_ns=0, cancel_fd=-1)
    saved.close()
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert open_fds() == before


def test_a_description_that_is_far_too_long_is_not_read(tmp_path: Path) -> None:
    with (saved_in(tmp_path) / "state.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(PeerError, match="too many for any machine"):
        take(open_saved(tmp_path, os.geteuid()))


# -- what a start holds ---------------------------------------------------------------------------


def test_files_of_a_machine_are_made_anew(tmp_path: Path) -> None:
    with ExitStack() as stack:
        fd = make_directory(tmp_path / "vm", None)
        stack.callback(os.close, fd)
        write_file(fd, "a", b"x" * 100_000)
        assert (tmp_path / "vm/a").read_bytes() == b"x" * 100_000
        assert (tmp_path / "vm").stat().st_mode & 0o777 == 0o700
        with pytest.raises(FileExistsError):
            write_file(fd, "a", b"")
        (tmp_path / "vm/b").symlink_to(tmp_path / "outside")
        with pytest.raises(FileExistsError):
            write_file(fd, "b", b"")
        assert not (tmp_path / "outside").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_files_of_a_machine_are_its_users(tmp_path: Path) -> None:
    with ExitStack() as stack:
        fd = make_directory(tmp_path / "vm", (12345, 54321))
        stack.callback(os.close, fd)
        write_file(fd, "a", b"", (12345, 54321))
    for path in (tmp_path / "vm", tmp_path / "vm/a"):
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)
