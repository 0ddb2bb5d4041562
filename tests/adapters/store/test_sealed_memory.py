"""Nobody changes a template in memory, not even root."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import InvariantError, PermanentError
from agentd.store.loaded import LoadedTemplate
from agentd.store.memfd import check_sealed, create_memfd, is_sealed, seal_memfd
from tests.adapters.store.support import closing, content, map_shared, open_store, seal_one


@pytest.fixture
def template(tmp_path: Path) -> Iterator[LoadedTemplate]:
    seal_one(tmp_path)
    with open_store(tmp_path) as store, closing(store.load("python")) as loaded:
        before = content(loaded.memory_fd)
        yield loaded
        assert content(loaded.memory_fd) == before


@pytest.fixture(params=["our fd", "reopened"])
def memory_fd(request: pytest.FixtureRequest, template: LoadedTemplate) -> Iterator[int]:
    """The memory as we hold it, and as a monitor opens it by path."""
    if request.param == "our fd":
        yield template.memory_fd
        return
    fd = os.open(f"/proc/self/fd/{template.memory_fd}", os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)


def test_write_is_refused(memory_fd: int) -> None:
    with pytest.raises(PermissionError):
        os.pwrite(memory_fd, b"x", 0)


@pytest.mark.parametrize("size", [0, 4096, 1 << 30], ids=["empty", "shorter", "longer"])
def test_another_size_is_refused(memory_fd: int, size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(memory_fd, size)


def test_a_shared_writable_mapping_is_refused(memory_fd: int) -> None:
    with pytest.raises(PermissionError):
        map_shared(memory_fd, writable=True)


def test_allocating_is_refused(memory_fd: int) -> None:
    with pytest.raises(PermissionError):
        os.posix_fallocate(memory_fd, 0, 1 << 30)


def test_a_seal_cannot_be_added_or_taken_back(memory_fd: int) -> None:
    for seals in (0, fcntl.F_SEAL_WRITE):
        with pytest.raises(PermissionError):
            fcntl.fcntl(memory_fd, fcntl.F_ADD_SEALS, seals)
    assert is_sealed(memory_fd)


def test_opening_it_truncated_is_refused(template: LoadedTemplate) -> None:
    with pytest.raises(PermissionError):
        os.close(os.open(f"/proc/self/fd/{template.memory_fd}", os.O_RDWR | os.O_TRUNC))


def test_a_private_mapping_may_be_written_and_changes_only_itself(memory_fd: int) -> None:
    with mmap.mmap(memory_fd, 0, flags=mmap.MAP_PRIVATE) as fork:
        fork[:4] = b"mine"
        assert os.pread(memory_fd, 4, 0) != b"mine"


def test_the_device_state_is_sealed_too(template: LoadedTemplate) -> None:
    with pytest.raises(PermissionError):
        os.pwrite(template.state_fd, b"x", 0)


def test_the_check_passes_what_was_loaded(template: LoadedTemplate) -> None:
    check_sealed(template)


def test_the_check_refuses_memory_that_was_never_sealed(template: LoadedTemplate) -> None:
    fd = create_memfd("open")
    try:
        os.ftruncate(fd, template.manifest.memory.size_bytes)
        with pytest.raises(InvariantError, match="not sealed"):
            check_sealed(LoadedTemplate(template.manifest, fd, template.state_fd))
    finally:
        os.close(fd)


def test_the_check_refuses_memory_of_another_size(template: LoadedTemplate) -> None:
    fd = create_memfd("short")
    try:
        os.ftruncate(fd, 4096)
        seal_memfd(fd)
        with pytest.raises(PermanentError, match="4096 bytes in memory"):
            check_sealed(LoadedTemplate(template.manifest, fd, template.state_fd))
    finally:
        os.close(fd)


def test_the_check_refuses_what_is_no_memfd(template: LoadedTemplate, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(InvariantError, match="no memfd"):
        check_sealed(LoadedTemplate(template.manifest, file.fileno(), template.state_fd))
    with pytest.raises(InvariantError, match="no memfd"):
        check_sealed(LoadedTemplate(template.manifest, -1, template.state_fd))


def test_a_memfd_survives_the_removal_of_its_template(tmp_path: Path) -> None:
    seal_one(tmp_path)
    with open_store(tmp_path) as store, closing(store.load("python")) as loaded:
        before = content(loaded.memory_fd)
        store.remove("python")
        assert content(loaded.memory_fd) == before
        check_sealed(loaded)


def test_a_memfd_survives_damage_to_the_file(tmp_path: Path) -> None:
    directory = seal_one(tmp_path)
    with open_store(tmp_path) as store, closing(store.load("python")) as loaded:
        before = content(loaded.memory_fd)
        (directory / "memory").write_bytes(b"gone")
        assert content(loaded.memory_fd) == before
        with pytest.raises(PermanentError):
            store.load("python")
