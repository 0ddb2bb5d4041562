"""Recording what a process touches, keeping the list, reading it ahead: with real files."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from agentd.store import read_ahead
from agentd.store.files import opened_dir
from agentd.store.read_ahead_plan import runs_of
from agentd.units import PAGE_BYTES
from agentd.wire.manifest import Manifest
from agentd.wire.read_ahead import FORMAT_VERSION, PageRun, ReadAhead
from tests.unit.store.samples import MANIFEST

PAGES = 600
# What stands for a fork: it maps a file privately, reads and writes pages, says so, waits.
FORK = """
import mmap, sys
fd, *orders = sys.argv[1:]
memory = mmap.mmap(int(fd), 0, mmap.MAP_PRIVATE)
for order in orders:
    page = int(order.rstrip("w")) * 4096
    if order.endswith("w"):
        memory[page] = 1
    else:
        memory[page]
print("touched", flush=True)
sys.stdin.read()
"""


@contextmanager
def fork_of(fd: int, *orders: str) -> Iterator[subprocess.Popen[str]]:
    """A process that maps a file and has touched pages of it; "w" behind one: written."""
    command = [sys.executable, "-c", FORK, str(fd), *orders]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[fd]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "touched\n"
        yield process


@pytest.fixture
def memory() -> Iterator[int]:
    """A memfd with one page of data in every 64 KiB, so that a fault maps no neighbours with it."""
    fd = os.memfd_create("memory", os.MFD_CLOEXEC)
    os.ftruncate(fd, PAGES * PAGE_BYTES)
    for page in range(0, PAGES, 16):
        os.pwrite(fd, b"x", page * PAGE_BYTES)
    yield fd
    os.close(fd)


def pages_of(mask: bytes) -> list[int]:
    return [page for page, counts in enumerate(mask) if counts]


# -- recording ------------------------------------------------------------------------------------


def test_a_fork_has_touched_what_it_read_and_what_it_wrote(memory: int) -> None:
    with fork_of(memory, "0", "96", "112w", "592") as fork:
        mask = read_ahead.touched_by(fork.pid, memory)
    assert len(mask) == PAGES
    assert pages_of(mask) == [0, 96, 112, 592]


def test_a_page_that_was_written_without_being_there_counts(memory: int) -> None:
    with fork_of(memory, "7w") as fork:
        assert pages_of(read_ahead.touched_by(fork.pid, memory)) == [7]


def test_a_process_that_maps_another_file_gives_no_record(memory: int) -> None:
    other = os.memfd_create("other", os.MFD_CLOEXEC)
    try:
        os.ftruncate(other, PAGES * PAGE_BYTES)
        with fork_of(other, "0w") as fork:
            assert pages_of(read_ahead.touched_by(fork.pid, other)) == [0]
            with pytest.raises(ProcessLookupError, match="does not map"):
                read_ahead.touched_by(fork.pid, memory)
    finally:
        os.close(other)


def test_a_file_on_disk_is_recorded_as_memory_is(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(PAGES * PAGE_BYTES))
    fd = os.open(path, os.O_RDONLY)
    try:
        with fork_of(fd, "5w", "300w") as fork:
            assert pages_of(read_ahead.touched_by(fork.pid, fd)) == [5, 300]
    finally:
        os.close(fd)


def test_a_fork_that_has_ended_is_told_from_one_that_touched_nothing(memory: int) -> None:
    with fork_of(memory, "0") as fork:
        pid = fork.pid
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        read_ahead.touched_by(pid, memory)


def test_a_fork_that_nobody_has_reaped_yet_has_ended_too(memory: int) -> None:
    with fork_of(memory, "0") as fork:
        fork.kill()
        os.waitid(os.P_PID, fork.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError):
            read_ahead.touched_by(fork.pid, memory)


def test_a_process_that_ends_while_it_is_read_is_no_record(memory: int, tmp_path: Path) -> None:
    status = os.fstat(memory)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    process = tmp_path / "77"
    process.mkdir()
    (process / "pagemap").write_bytes(b"")
    line = f"10000-20000 rw-p 00000000 {device} {status.st_ino} /memfd:memory (deleted)\n"
    (process / "maps").write_text(f"400000-401000 r--p 0 00:00 0\n{line}")
    with pytest.raises(ProcessLookupError):
        read_ahead.touched_by(77, memory, proc=tmp_path)


def test_a_mapping_that_reaches_beyond_the_file_is_cut(memory: int, tmp_path: Path) -> None:
    status = os.fstat(memory)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    process = tmp_path / "77"
    process.mkdir()
    entry = (1 << 63).to_bytes(8, "little")
    (process / "pagemap").write_bytes(entry * 0x40)
    tail = f"{device} {status.st_ino} /memfd:memory (deleted)\n"
    offsets = (f"{(PAGES - 2) * PAGE_BYTES:08x}", f"{(PAGES + 9) * PAGE_BYTES:08x}")
    lines = [f"10000-20000 rw-p {offset} {tail}" for offset in offsets]
    (process / "maps").write_text("".join(lines))
    mask = read_ahead.touched_by(77, memory, proc=tmp_path)
    assert (len(mask), pages_of(mask)) == (PAGES, [PAGES - 2, PAGES - 1])


# -- keeping --------------------------------------------------------------------------------------


@pytest.fixture
def manifest() -> Manifest:
    """Of a template with PAGES pages of memory."""
    sized = msgspec.structs.replace(MANIFEST.memory, size_bytes=PAGES * PAGE_BYTES)
    return msgspec.structs.replace(MANIFEST, memory=sized)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A template's directory, open."""
    (tmp_path / "template").mkdir(mode=0o700)
    with opened_dir(str(tmp_path / "template")) as fd:
        yield fd


def mask_of(*pages: int) -> bytes:
    return bytes(int(page in pages) for page in range(PAGES))


def test_what_forks_agree_on_is_kept_beside_the_template(
    directory: int, manifest: Manifest
) -> None:
    records = [mask_of(3, 4, 500), mask_of(3, 4, 501), mask_of(3, 4, 500)]
    agreed = read_ahead.agree(manifest, records)
    assert agreed.runs == (PageRun(3, 2), PageRun(500, 1))
    read_ahead.keep(directory, agreed)
    assert read_ahead.find(directory, manifest) == agreed
    assert os.listdir(directory) == [read_ahead.NAME]


def test_a_newer_list_replaces_the_older(directory: int, manifest: Manifest) -> None:
    read_ahead.keep(directory, read_ahead.agree(manifest, [mask_of(1)]))
    newer = read_ahead.agree(manifest, [mask_of(2)])
    read_ahead.keep(directory, newer)
    assert read_ahead.find(directory, manifest) == newer


def test_a_writer_that_was_killed_is_no_hindrance(directory: int, manifest: Manifest) -> None:
    half = os.open(f"{read_ahead.NAME}.new", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=directory)
    os.write(half, b"{")
    os.close(half)
    assert read_ahead.find(directory, manifest) is None
    read_ahead.keep(directory, read_ahead.agree(manifest, [mask_of(1)]))
    assert os.listdir(directory) == [read_ahead.NAME]


def test_a_list_that_cannot_be_written_leaves_the_older(directory: int, manifest: Manifest) -> None:
    older = read_ahead.agree(manifest, [mask_of(1)])
    read_ahead.keep(directory, older)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError) as failed:
            read_ahead.keep(directory, read_ahead.agree(manifest, [mask_of(2)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.value.errno == errno.EFBIG
    assert os.listdir(directory) == [read_ahead.NAME]
    assert read_ahead.find(directory, manifest) == older


def test_a_list_of_another_template_or_size_is_none(directory: int, manifest: Manifest) -> None:
    read_ahead.keep(directory, read_ahead.agree(manifest, [mask_of(1)]))
    rebuilt = msgspec.structs.replace(manifest, template_id="another")
    assert read_ahead.find(directory, rebuilt) is None
    larger = msgspec.structs.replace(manifest.memory, size_bytes=(PAGES + 1) * PAGE_BYTES)
    assert read_ahead.find(directory, msgspec.structs.replace(manifest, memory=larger)) is None


def test_no_list_and_a_damaged_one_are_none(directory: int, manifest: Manifest) -> None:
    assert read_ahead.find(directory, manifest) is None
    fd = os.open(read_ahead.NAME, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=directory)
    os.write(fd, b'{"format_version":1')
    os.close(fd)
    assert read_ahead.find(directory, manifest) is None


def test_a_link_in_the_place_of_a_list_is_not_followed(
    directory: int, manifest: Manifest, tmp_path: Path
) -> None:
    read_ahead.keep(directory, read_ahead.agree(manifest, [mask_of(1)]))
    os.rename(read_ahead.NAME, "elsewhere", src_dir_fd=directory, dst_dir_fd=directory)
    os.symlink("elsewhere", read_ahead.NAME, dir_fd=directory)
    assert read_ahead.find(directory, manifest) is None


# -- reading --------------------------------------------------------------------------------------

MANY = 4096


def list_of(*runs: PageRun) -> ReadAhead:
    return ReadAhead(FORMAT_VERSION, "id", MANY * PAGE_BYTES, 3, runs)


@pytest.fixture
def cold_file(tmp_path: Path) -> Iterator[int]:
    """A file on a disk, nothing of which is in the page cache."""
    path = tmp_path / "memory"
    path.write_bytes(os.urandom(MANY * PAGE_BYTES))
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if read_ahead.resident_share(fd, [PageRun(0, MANY)]) > 0:
            pytest.skip(f"{tmp_path} keeps its files in memory")
        yield fd
    finally:
        os.close(fd)


def await_read(fd: int, run: PageRun) -> None:
    """Wait until the disk has brought a run."""
    while read_ahead.resident_share(fd, [run]) < 1:
        time.sleep(0.01)


def test_a_cold_file_is_read_ahead_where_forks_touch_it(cold_file: int) -> None:
    runs = PageRun(10, 100), PageRun(3000, 7)
    done = read_ahead.warm(cold_file, list_of(*runs))
    assert (done.resident_share, done.asked_pages) == (0.0, 107)
    assert done.why == "0% of the pages that forks touch first are in memory: 107 read ahead"
    for run in runs:
        await_read(cold_file, run)
    # Once, in large requests: what lies between was not asked for.
    assert read_ahead.resident_share(cold_file, [PageRun(1000, 1500)]) == 0.0


def test_what_is_in_memory_is_not_read_again(cold_file: int) -> None:
    runs = PageRun(10, 100), PageRun(3000, 7)
    read_ahead.warm(cold_file, list_of(*runs))
    for run in runs:
        await_read(cold_file, run)
    done = read_ahead.warm(cold_file, list_of(*runs))
    assert (done.resident_share, done.asked_pages) == (1.0, 0)
    assert done.why == "100% of the pages that forks touch first are in memory: none read"


def test_a_file_that_is_half_in_memory_is_cold(cold_file: int) -> None:
    read_ahead.warm(cold_file, list_of(PageRun(0, 320)))
    await_read(cold_file, PageRun(0, 320))
    done = read_ahead.warm(cold_file, list_of(PageRun(0, 320), PageRun(2000, 320)))
    assert (done.resident_share, done.asked_pages) == (0.5, 640)


def test_a_list_that_names_pages_behind_the_end_reads_what_there_is(cold_file: int) -> None:
    done = read_ahead.warm(cold_file, list_of(PageRun(MANY - 2, 10**15)))
    assert done.asked_pages == 2


def test_nothing_to_read_is_all_there(cold_file: int) -> None:
    assert read_ahead.warm(cold_file, list_of()).asked_pages == 0


def test_what_one_fork_touched_is_read_for_the_next(memory: int, cold_file: int) -> None:
    with fork_of(memory, "0", "96", "592") as fork:
        runs = runs_of(read_ahead.touched_by(fork.pid, memory))
    assert read_ahead.warm(cold_file, list_of(*runs)).asked_pages == 3
