"""A sealed template comes back as it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, PermanentError, TransientError, UsageError
from agentd.store.copier import Copier
from agentd.store.memfd import check_sealed
from agentd.store.progress import Steps
from agentd.units import PAGE_BYTES
from tests.adapters.store.support import (
    DATA_PAGES,
    SIZE_BYTES,
    At,
    Seen,
    closing,
    content,
    fail_with,
    frozen_guest,
    leftovers,
    map_shared,
    open_store,
    reference_copy,
    seal_one,
)


def test_a_template_comes_back_equal_with_its_holes(data_dir: Path, copier: Copier) -> None:
    with open_store(data_dir, copier) as store, frozen_guest() as request:
        manifest = store.seal(request)
        with closing(store.load("python")) as template:
            assert template.manifest == manifest
            assert content(template.memory_fd) == content(request.memory_fd)
            assert content(template.state_fd) == content(request.state_fd)
            assert os.fstat(template.memory_fd).st_blocks * 512 < SIZE_BYTES
            check_sealed(template)
    assert leftovers(data_dir) == ["templates/python"]


def test_a_template_outlives_the_daemon(data_dir: Path, copier: Copier) -> None:
    seal_one(data_dir, copier=copier)
    with (
        open_store(data_dir, copier) as store,
        frozen_guest() as request,
        closing(store.load("python")) as template,
    ):
        assert content(template.memory_fd) == content(request.memory_fd)


def test_only_pages_with_data_take_space(data_dir: Path, copier: Copier) -> None:
    seal_one(data_dir, copier=copier)
    with open_store(data_dir, copier) as store:
        stored = store.inspect("python")
    assert stored.manifest.memory.size_bytes == SIZE_BYTES
    assert stored.manifest.memory.data_bytes == len(DATA_PAGES) * PAGE_BYTES
    assert stored.disk_bytes < SIZE_BYTES // 4


def test_only_the_daemon_may_read_a_template(data_dir: Path) -> None:
    directory = seal_one(data_dir)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {file.name for file in directory.iterdir()} == {
        "manifest.json",
        "memory",
        "device_state",
    }
    for file in directory.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_manifest_says_who_made_it_when(data_dir: Path) -> None:
    manifest = json.loads((seal_one(data_dir) / "manifest.json").read_text())["manifest"]
    assert manifest["owner"] == "node-1"
    assert manifest["created_at"] == "2024-05-06T07:08:09Z"


def test_a_taken_name_is_never_replaced(data_dir: Path) -> None:
    with open_store(data_dir) as store, frozen_guest() as request:
        first = store.seal(request)
        with pytest.raises(UsageError) as caught:
            store.seal(request)
        assert caught.value.code is ErrorCode.TEMPLATE_EXISTS
        assert store.inspect("python").manifest == first
    assert leftovers(data_dir) == ["templates/python"]


def test_a_name_that_was_taken_meanwhile_is_not_replaced(data_dir: Path) -> None:
    with open_store(data_dir) as store, frozen_guest() as request:
        winner = []
        race = At(4, lambda: winner.append(store.seal(request)))
        with pytest.raises(UsageError) as caught:
            store.seal(request, Steps(race))
        assert caught.value.code is ErrorCode.TEMPLATE_EXISTS
        assert store.inspect("python").manifest == winner[0]
    assert leftovers(data_dir) == ["templates/python"]


def test_even_a_broken_template_keeps_its_name(data_dir: Path) -> None:
    directory = seal_one(data_dir)
    (directory / "manifest.json").unlink()
    with open_store(data_dir) as store, frozen_guest() as request:
        with pytest.raises(UsageError) as caught:
            store.seal(request)
        assert caught.value.code is ErrorCode.TEMPLATE_EXISTS
    assert (directory / "memory").exists()


def test_a_bad_name_is_refused_before_anything_happens(data_dir: Path) -> None:
    with open_store(data_dir) as store, frozen_guest("../escape") as request:
        with pytest.raises(UsageError) as caught:
            store.seal(request)
        assert caught.value.code is ErrorCode.NAME_INVALID
        for call in (store.load, store.inspect, store.verify, store.remove):
            with pytest.raises(UsageError):
                call("..")
    assert leftovers(data_dir) == []


def test_sealing_reports_each_step(data_dir: Path) -> None:
    watch = At(-1, lambda: None)
    with open_store(data_dir) as store, frozen_guest() as request:
        store.seal(request, Steps(watch))
    assert watch.stages == [
        "space",
        "memory",
        "memory on disk",
        "device state",
        "manifest",
        "published",
    ]


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, ErrorCode.DISK_FULL),
        (errno.EIO, ErrorCode.TEMPLATE_BUILD_FAILED),
        (errno.EACCES, ErrorCode.PERMISSION_DENIED),
    ],
    ids=["ENOSPC", "EIO", "EACCES"],
)
def test_a_failure_at_any_step_leaves_nothing_behind(
    tmp_path: Path, step: int, number: int, code: ErrorCode
) -> None:
    with open_store(tmp_path) as store, frozen_guest() as request:
        with pytest.raises(Exception, match="python") as caught:
            store.seal(request, Steps(At(step, fail_with(number))))
        assert getattr(caught.value, "code", None) is code
        assert leftovers(tmp_path) == []
        store.seal(request)


@pytest.mark.parametrize("step", range(6))
def test_cancelling_at_any_step_leaves_nothing_behind(tmp_path: Path, step: int) -> None:
    cancel_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with open_store(tmp_path) as store, frozen_guest() as request:
            stop = At(step, lambda: os.eventfd_write(cancel_fd, 1))
            with pytest.raises(TransientError) as caught:
                store.seal(request, Steps(stop, cancel_fd))
            assert caught.value.code is ErrorCode.SHUTTING_DOWN
            assert leftovers(tmp_path) == []
            assert len(stop.stages) == step + 1
    finally:
        os.close(cancel_fd)


def test_cancelling_stops_copiers_too(data_dir: Path, copier: Copier) -> None:
    seal_one(data_dir, copier=copier)
    cancel_fd = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        with open_store(data_dir, copier) as store:
            with pytest.raises(TransientError) as caught:
                store.load("python", Steps(cancel_fd=cancel_fd))
            assert caught.value.code is ErrorCode.SHUTTING_DOWN
    finally:
        os.close(cancel_fd)


def test_a_copier_that_counts_wrong_publishes_nothing(tmp_path: Path) -> None:
    def forgetful(src: int, dst: int, size: int, chunk: int, *, cancel_fd: int) -> Seen:
        copied = reference_copy(src, dst, size, chunk, cancel_fd=cancel_fd)
        return Seen(copied.data_bytes, copied.chunk_hashes[:-1])

    with open_store(tmp_path, forgetful) as store, frozen_guest() as request:
        with pytest.raises(PermanentError) as caught:
            store.seal(request)
        assert caught.value.code is ErrorCode.TEMPLATE_BUILD_FAILED
    assert leftovers(tmp_path) == []


def test_a_guest_whose_memory_is_still_mapped_writable_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, frozen_guest() as request:
        with map_shared(request.memory_fd, writable=True):
            with pytest.raises(PermanentError, match="busy") as caught:
                store.seal(request)
            assert caught.value.code is ErrorCode.TEMPLATE_BUILD_FAILED
        assert leftovers(tmp_path) == []
        store.seal(request)


def test_a_guest_whose_memory_is_a_plain_file_is_refused(tmp_path: Path) -> None:
    with (
        open_store(tmp_path / "data") as store,
        frozen_guest() as request,
        (tmp_path / "ram").open("wb+") as ram,
    ):
        ram.truncate(SIZE_BYTES)
        plain = type(request)(**(vars(request) | {"memory_fd": ram.fileno()}))
        with pytest.raises(PermanentError) as caught:
            store.seal(plain)
        assert caught.value.code is ErrorCode.TEMPLATE_BUILD_FAILED


def test_the_frozen_memory_is_adopted_without_reading_it_back(data_dir: Path) -> None:
    with open_store(data_dir) as store, frozen_guest() as request:
        manifest = store.seal(request)
        memory_fd, state_fd = os.dup(request.memory_fd), os.dup(request.state_fd)
        (data_dir / "templates" / "python" / "memory").unlink()
        with closing(store.adopt_memfds(manifest, memory_fd, state_fd)) as template:
            check_sealed(template)
            assert template.memory_fd == memory_fd


def test_the_digest_is_what_sha256sum_checks(data_dir: Path, copier: Copier) -> None:
    with open_store(data_dir, copier) as store, frozen_guest() as request:
        store.seal(request)
        assert not store.inspect("python").has_digest
        assert not store.verify("python").is_recorded
        with closing(store.load("python")) as template:
            digest = store.write_digest(template)
        assert digest == hashlib.sha256(content(request.memory_fd)).hexdigest()
        assert store.inspect("python").has_digest
        assert store.verify("python").is_recorded
        assert store.verify("python").sha256 == digest
    subprocess.run(
        ["sha256sum", "--check", "--status", "memory.sha256"],
        cwd=data_dir / "templates" / "python",
        check=True,
        timeout=30,
    )
    assert leftovers(data_dir) == ["templates/python"]


def test_the_digest_of_a_removed_template_goes_nowhere(data_dir: Path) -> None:
    with open_store(data_dir) as store, frozen_guest() as request:
        store.seal(request)
        with closing(store.load("python")) as template:
            store.remove("python")
            with pytest.raises(UsageError) as caught:
                store.write_digest(template)
            assert caught.value.code is ErrorCode.TEMPLATE_NOT_FOUND
            store.seal(request)  # another template of the same name
            with pytest.raises(UsageError):
                store.write_digest(template)
        assert not store.inspect("python").has_digest
    assert leftovers(data_dir) == ["templates/python"]


def test_loading_gives_everything_back_when_it_is_stopped(data_dir: Path) -> None:
    seal_one(data_dir)
    with open_store(data_dir) as store:
        with pytest.raises(TransientError) as caught:
            store.load("python", Steps(At(0, fail_with(errno.ENOMEM))))
        assert caught.value.code is ErrorCode.NO_MEMORY


def test_what_is_not_there_is_not_found(data_dir: Path) -> None:
    with open_store(data_dir) as store:
        for call in (store.load, store.inspect, store.verify, store.remove):
            with pytest.raises(UsageError) as caught:
                call("nothing")
            assert caught.value.code is ErrorCode.TEMPLATE_NOT_FOUND


def cached_bytes(path: Path) -> int:
    """How much of a file is in the page cache."""
    argv = ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    return int(done.stdout)


def test_the_page_cache_does_not_keep_a_second_copy(tmp_path: Path, copier: Copier) -> None:
    if shutil.which("fincore") is None:
        pytest.skip("fincore is not installed")
    if os.statvfs(tmp_path).f_fsid == os.statvfs("/dev/shm").f_fsid:
        pytest.skip("the files of a tmpfs are page cache")
    memory = seal_one(tmp_path, copier=copier) / "memory"
    assert cached_bytes(memory) == 0
    memory.read_bytes()
    assert cached_bytes(memory) > 0
    with open_store(tmp_path, copier) as store, closing(store.load("python")):
        assert cached_bytes(memory) == 0
