"""Copying a memory image through Python; the copy itself is tested in tests/native/test_seal.c."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentd import native
from agentd.units import MIB, PAGE_BYTES

SIZE = 8 * MIB


@contextmanager
def image(size: int = 0, seed: int | None = None) -> Iterator[int]:
    """A memfd, with some random pages if there is a seed."""
    fd = os.memfd_create("image", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size)
        if seed is not None:
            chance = random.Random(seed)
            for page in chance.sample(range(size // PAGE_BYTES), 100):
                os.pwrite(fd, chance.randbytes(PAGE_BYTES), page * PAGE_BYTES)
        yield fd
    finally:
        os.close(fd)


def test_copy_then_hash_agree() -> None:
    with image(SIZE, seed=1) as src, image() as dst:
        copied = native.copy_memory(src, dst, SIZE)
        assert copied == native.copy_memory(dst, -1, SIZE)
        assert os.pread(src, SIZE, 0) == os.pread(dst, SIZE, 0)
    assert copied.data_bytes == 100 * PAGE_BYTES
    assert len(copied.chunk_hashes) == 4
    assert all(len(value) == 16 and int(value, 16) for value in copied.chunk_hashes)


def test_last_chunk_may_be_short() -> None:
    with image(SIZE, seed=1) as src:
        copied = native.copy_memory(src, -1, SIZE, 3 * MIB)
    assert len(copied.chunk_hashes) == 3


def test_empty_image_has_no_hashes() -> None:
    with image() as src, image() as dst:
        assert native.copy_memory(src, dst, 0) == native.CopiedMemory(0, ())


def test_hashes_are_of_content_alone_so_they_never_change() -> None:
    """Sealed images on disk depend on these values: a change would call all of them damaged."""
    with image(PAGE_BYTES) as src:
        os.pwrite(src, bytes(range(256)) * 16, 0)
        copied = native.copy_memory(src, -1, PAGE_BYTES)
    assert copied.chunk_hashes == ("9cc62deae12cab03",)


@pytest.mark.parametrize(
    ("size", "seed", "code"),
    [(SIZE + PAGE_BYTES, 1, errno.ENODATA), (SIZE - 1, 1, errno.EINVAL)],
    ids=["source_too_short", "no_whole_page"],
)
def test_wrong_size_is_refused(size: int, seed: int, code: int) -> None:
    with image(SIZE, seed) as src, image() as dst, pytest.raises(OSError) as caught:
        native.copy_memory(src, dst, size)
    assert caught.value.errno == code


def test_destination_that_holds_data_is_refused() -> None:
    with image(SIZE, 1) as src, image(SIZE, 2) as dst, pytest.raises(OSError) as caught:
        native.copy_memory(src, dst, SIZE)
    assert caught.value.errno == errno.ENOTEMPTY


def test_sealed_destination_is_an_error() -> None:
    with image(SIZE, 1) as src:
        dst = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            fcntl.fcntl(dst, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
            with pytest.raises(PermissionError):
                native.copy_memory(src, dst, SIZE)
        finally:
            os.close(dst)


def test_cancel_fd_stops_the_copy() -> None:
    cancel_fd = os.eventfd(1, os.EFD_CLOEXEC)
    try:
        with image(SIZE, 1) as src, image() as dst, pytest.raises(OSError) as caught:
            native.copy_memory(src, dst, SIZE, cancel_fd=cancel_fd)
    finally:
        os.close(cancel_fd)
    assert caught.value.errno == errno.ECANCELED


def test_deadline_stops_the_copy() -> None:
    with image(SIZE, 1) as src, pytest.raises(TimeoutError):
        native.copy_memory(src, -1, SIZE, deadline_ns=native.deadline_after(0))
