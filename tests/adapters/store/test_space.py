"""A full disk is told from other failures, leaving nothing behind."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode, TransientError
from agentd.store.copier import Copier
from agentd.store.progress import Steps
from agentd.units import MIB
from tests.adapters.store.support import (
    SIZE_BYTES,
    At,
    Seen,
    frozen_guest,
    leftovers,
    open_store,
    reference_copy,
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem with 20 MiB of its own."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m,mode=700", "snapstart-test", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, timeout=30).returncode != 0:
        pytest.skip("only root can mount a small filesystem")
    yield path
    subprocess.run(["umount", str(path)], check=True, timeout=30)


def fill(path: Path, keep_bytes: int) -> None:
    """Leave that much space."""
    space = os.statvfs(path)
    with (path / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - keep_bytes)


def test_too_little_space_is_refused_before_anything_is_written(small_disk: Path) -> None:
    with open_store(small_disk / "data") as store, frozen_guest() as request:
        fill(small_disk, 16 * MIB)
        watch = At(-1, lambda: None)
        with pytest.raises(TransientError) as caught:
            store.seal(request, Steps(watch))
        assert watch.stages == []
        error = caught.value
        assert error.code is ErrorCode.DISK_FULL
        assert error.message.startswith(
            f"sealing template 'python' needs 16.1 MiB in {small_disk / 'data'}, 16.0 MiB are free"
        )
        (small_disk / "ballast").unlink()
        store.seal(request)


def test_space_that_runs_out_meanwhile_is_reported_with_the_numbers(
    small_disk: Path, copier: Copier
) -> None:
    with open_store(small_disk / "data", copier) as store, frozen_guest() as request:
        thief = At(0, lambda: fill(small_disk, 16384))
        with pytest.raises(TransientError, match=r"needs 16\.1 MiB in .*No space left") as caught:
            store.seal(request, Steps(thief))
        assert caught.value.code is ErrorCode.DISK_FULL
        assert leftovers(small_disk / "data") == []
        (small_disk / "ballast").unlink()
        store.seal(request)


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """As `ulimit -f`; Python ignores SIGXFSZ, so the kernel says EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_of_the_file_size_is_a_full_disk_too(tmp_path: Path, copier: Copier) -> None:
    with open_store(tmp_path, copier) as store, frozen_guest() as request:
        with file_size_limit(SIZE_BYTES // 2), pytest.raises(TransientError) as caught:
            store.seal(request)
        assert caught.value.code is ErrorCode.DISK_FULL
        assert "File too large" in caught.value.message
        assert leftovers(tmp_path) == []
        store.seal(request)


def test_a_disk_that_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def failing(src: int, dst: int, size: int, chunk: int, *, cancel_fd: int) -> Seen:
        reference_copy(src, dst, size, chunk, cancel_fd=cancel_fd)
        raise OSError(5, "Input/output error")

    with open_store(tmp_path, failing) as store, frozen_guest() as request:
        with pytest.raises(Exception, match="Input/output error") as caught:
            store.seal(request)
        assert getattr(caught.value, "code", None) is ErrorCode.TEMPLATE_BUILD_FAILED
    assert leftovers(tmp_path) == []


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up root for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def nobodys_dir() -> Iterator[Path]:
    """A directory of the user that `as_nobody` becomes, reachable by it."""
    path = Path(tempfile.mkdtemp(prefix="snapstart-test-", dir="/dev/shm"))
    if os.geteuid() == 0:
        os.chown(path, 65534, -1)
    yield path
    shutil.rmtree(path)


def test_a_directory_that_cannot_be_written_is_a_matter_of_permission(nobodys_dir: Path) -> None:
    with as_nobody(), open_store(nobodys_dir / "data") as store, frozen_guest() as request:
        staging = nobodys_dir / "data" / "staging"
        staging.chmod(0o500)
        with pytest.raises(ConfigError) as caught:
            store.seal(request)
        assert caught.value.code is ErrorCode.PERMISSION_DENIED
        staging.chmod(0o700)
        store.seal(request)


def test_a_data_directory_that_cannot_be_made_is_a_matter_of_permission(nobodys_dir: Path) -> None:
    nobodys_dir.chmod(0o500)
    with as_nobody(), pytest.raises(ConfigError) as caught:
        open_store(nobodys_dir / "data")
    assert caught.value.code is ErrorCode.PERMISSION_DENIED
