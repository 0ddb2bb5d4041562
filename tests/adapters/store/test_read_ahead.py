"""Files are read ahead of their copy where they are not in the page cache."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.pager.places import TMPFS, filesystem_of
from agentd.store import read_ahead
from agentd.store.read_ahead import Extent, data_extents, read_cached_share
from agentd.units import MIB
from tests.adapters.store.support import closing, content, frozen_guest, open_store

DATA = os.urandom(MIB)
SAMPLE = tuple(range(0, MIB, MIB // 16))


@pytest.fixture
def cold_file(tmp_path: Path) -> Iterator[int]:
    """A file on a disk, and only there: data, a hole, data."""
    fd = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        os.pwrite(fd, DATA, 0)
        os.pwrite(fd, DATA, 8 * MIB)
        os.ftruncate(fd, 16 * MIB)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if read_cached_share(fd, SAMPLE) > 0:
            pytest.skip("the file system of temporary files keeps what was dropped from memory")
        yield fd
    finally:
        os.close(fd)


def test_the_data_of_a_file_is_found_between_its_holes(cold_file: int) -> None:
    assert data_extents(cold_file) == (Extent(0, MIB), Extent(8 * MIB, 9 * MIB))


def test_a_cold_file_comes_without_being_read(cold_file: int) -> None:
    with read_ahead.read_ahead(cold_file) as reading:
        assert (reading.source, reading.cached_share) == ("disk", 0.0)
        assert reading.ahead_bytes == 2 * MIB
        # Nobody reads: what appears was asked for. The suite's time-out ends a wait in vain.
        while read_cached_share(cold_file, (*SAMPLE, 8 * MIB, 9 * MIB - 4096)) < 1:
            time.sleep(0.01)


def test_a_file_that_is_in_memory_is_not_asked_for(cold_file: int) -> None:
    os.pread(cold_file, MIB, 0)
    os.pread(cold_file, MIB, 8 * MIB)
    with read_ahead.read_ahead(cold_file) as reading:
        assert (reading.source, reading.ahead_bytes) == ("cache", 0)


def test_a_file_of_holes_has_nothing_to_be_asked_for(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, MIB)
        with read_ahead.read_ahead(fd) as reading:
            assert (reading.source, reading.ahead_bytes) == ("cache", 0)
    finally:
        os.close(fd)


def test_a_failed_copy_ends_the_asking(cold_file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def advise(_fd: int, offset: int, _length: int, _advice: int) -> None:
        asked.append(offset)
        time.sleep(0.01)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(read_ahead, "REQUEST_BYTES", 4096)
    with pytest.raises(OSError, match="cut"), read_ahead.read_ahead(cold_file):
        raise OSError("cut")
    assert len(asked) < 2 * MIB // 4096


def test_a_loaded_template_says_how_it_was_read(data_dir: Path) -> None:
    with open_store(data_dir) as store, frozen_guest() as request:
        store.seal(request)
        with closing(store.load("python")) as template:
            assert content(template.memory_fd) == content(request.memory_fd)
            assert template.reading is not None
            is_in_memory = (
                filesystem_of(data_dir, Path("/proc/self/mountinfo").read_text()) == TMPFS
            )
            assert template.reading.source == ("cache" if is_in_memory else "disk")
