"""Damage is found, named, never restored."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agentd.errors import ErrorCode, PermanentError
from agentd.store.copier import Copier
from agentd.store.templates import TemplateStore
from agentd.units import MIB, PAGE_BYTES
from agentd.wire import manifest as wire
from tests.adapters.store.support import (
    SIZE_BYTES,
    Seen,
    closing,
    leftovers,
    open_store,
    reference_copy,
    seal_one,
)
from tests.unit.store.samples import MANIFEST

PARTS = ("manifest.json", "memory", "device_state")


def refusal(directory: Path, copier: Copier = reference_copy) -> str:
    """Why a damaged template cannot be loaded, nor verified."""
    with open_store(directory.parents[1], copier) as store:
        with pytest.raises(PermanentError) as caught:
            store.load(directory.name)
        assert caught.value.code is ErrorCode.TEMPLATE_CORRUPT
        with pytest.raises(PermanentError):
            store.verify(directory.name)
    assert leftovers(directory.parents[1]) == [f"templates/{directory.name}"]
    return caught.value.message


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """Damage one bit of a file in place."""
    with path.open("rb+") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ 1 << bit]))


@pytest.mark.parametrize(
    ("page", "first", "end"),
    [(0, 0, 2 * MIB), (3, 0, 2 * MIB), (600, 2 * MIB, 4 * MIB), (1791, 6 * MIB, 7 * MIB)],
    ids=["first page", "cleared page", "in a hole", "last page"],
)
def test_a_flipped_bit_in_memory_is_found_in_its_chunk(
    tmp_path: Path, copier: Copier, page: int, first: int, end: int
) -> None:
    directory = seal_one(tmp_path, copier=copier)
    flip(directory / "memory", page * PAGE_BYTES + 77, bit=5)
    assert refusal(directory, copier) == (
        f"template 'python' is damaged: memory is changed between offsets {first} and {end}"
    )


def test_a_cleared_page_is_found(tmp_path: Path, copier: Copier) -> None:
    directory = seal_one(tmp_path, copier=copier)
    with (directory / "memory").open("rb+") as file:
        os.pwrite(file.fileno(), bytes(PAGE_BYTES), 1000 * PAGE_BYTES)
    assert "between offsets 2097152 and 4194304" in refusal(directory, copier)


def test_swapped_pages_are_found(tmp_path: Path, copier: Copier) -> None:
    directory = seal_one(tmp_path, copier=copier)
    with (directory / "memory").open("rb+") as file:
        first, second = (os.pread(file.fileno(), PAGE_BYTES, n * PAGE_BYTES) for n in (1, 2))
        os.pwrite(file.fileno(), second + first, PAGE_BYTES)
    assert "between offsets 0 and 2097152" in refusal(directory, copier)


def test_a_moved_page_is_found(tmp_path: Path, copier: Copier) -> None:
    directory = seal_one(tmp_path, copier=copier)
    with (directory / "memory").open("rb+") as file:
        page = os.pread(file.fileno(), PAGE_BYTES, 1000 * PAGE_BYTES)
        os.pwrite(file.fileno(), bytes(PAGE_BYTES), 1000 * PAGE_BYTES)
        os.pwrite(file.fileno(), page, 1001 * PAGE_BYTES)
    assert "between offsets 2097152 and 4194304" in refusal(directory, copier)


def test_a_flipped_bit_anywhere_in_the_device_state_is_found(tmp_path: Path) -> None:
    directory = seal_one(tmp_path)
    size = (directory / "device_state").stat().st_size
    for offset in (0, size // 2, size - 1):
        flip(directory / "device_state", offset)
        assert "device_state does not have the SHA-256" in refusal(directory)
        flip(directory / "device_state", offset)
    with open_store(tmp_path) as store, closing(store.load("python")):
        pass


def test_a_flipped_bit_anywhere_in_the_manifest_is_found(tmp_path: Path) -> None:
    directory = seal_one(tmp_path)
    path = directory / "manifest.json"
    for offset in range(0, path.stat().st_size, 41):
        flip(path, offset, bit=offset % 8)
        assert "manifest.json: its" in refusal(directory)
        flip(path, offset, bit=offset % 8)


def test_a_flipped_bit_in_the_digest_is_found_by_verifying(tmp_path: Path) -> None:
    directory = seal_one(tmp_path)
    with open_store(tmp_path) as store:
        with closing(store.load("python")) as template:
            store.write_digest(template)
        for offset in (0, 63, 65, 72):
            flip(directory / "memory.sha256", offset)
            with pytest.raises(PermanentError, match=r"memory\.sha256 does not confirm"):
                store.verify("python")
            flip(directory / "memory.sha256", offset)
        with (directory / "memory.sha256").open("a") as file:
            file.write("x")
        with pytest.raises(PermanentError, match=r"memory\.sha256"):
            store.verify("python")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("where", [0, 1, 4096, -1], ids=["empty", "1", "4096", "last byte"])
def test_a_cut_file_is_found_before_it_is_read(data_dir: Path, part: str, where: int) -> None:
    directory = seal_one(data_dir)
    size = (directory / part).stat().st_size
    length = size - 1 if where == -1 else where
    if length >= size:
        pytest.skip(f"{part} has only {size} bytes")
    os.truncate(directory / part, length)
    message = refusal(directory)
    if part == "manifest.json":
        assert f"its {length} bytes" in message
    else:
        assert f"{part} is cut at offset {length} of {size}" in message


@pytest.mark.parametrize("part", ["memory", "device_state"])
def test_a_file_that_goes_on_is_found(tmp_path: Path, part: str) -> None:
    directory = seal_one(tmp_path)
    size = (directory / part).stat().st_size
    os.truncate(directory / part, size + PAGE_BYTES)
    assert f"{part} goes on after offset {size}" in refusal(directory)


def test_memory_that_is_cut_while_it_is_read_is_found(tmp_path: Path) -> None:
    directory = seal_one(tmp_path)

    def cut_first(src: int, dst: int, size: int, chunk: int, *, cancel_fd: int) -> Seen:
        os.truncate(directory / "memory", SIZE_BYTES // 2)
        return reference_copy(src, dst, size, chunk, cancel_fd=cancel_fd)

    with open_store(tmp_path, cut_first) as store:
        with pytest.raises(PermanentError, match="to its end") as caught:
            store.load("python")
        assert caught.value.code is ErrorCode.TEMPLATE_CORRUPT


def test_a_disk_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    seal_one(tmp_path)

    def broken_disk(*_args: int, cancel_fd: int) -> Seen:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_store(tmp_path, broken_disk) as store:
        with pytest.raises(PermanentError, match="Input/output error") as caught:
            store.load("python")
        assert caught.value.code is ErrorCode.TEMPLATE_CORRUPT


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_file_is_named(tmp_path: Path, part: str) -> None:
    directory = seal_one(tmp_path)
    (directory / part).unlink()
    assert f"{part} is missing" in refusal(directory)


def link(path: Path) -> None:
    real = path.with_name("elsewhere")
    path.rename(real)
    path.symlink_to(real.name)


def become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(mode=0o700)


def become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def open_to_all(path: Path) -> None:
    path.chmod(0o666)


def give_away(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("replace", "what"),
    [
        (link, "is a symbolic link"),
        (become_directory, "is not a regular file"),
        (become_fifo, "is not a regular file"),
        (open_to_all, "has mode 666: others may write it"),
        (give_away, "belongs to uid 12345"),
    ],
    ids=["symlink", "directory", "fifo", "mode", "owner"],
)
def test_what_the_store_did_not_make_is_not_opened(
    tmp_path: Path, part: str, replace: Callable[[Path], None], what: str
) -> None:
    directory = seal_one(tmp_path)
    replace(directory / part)
    assert f"{part} {what}" in refusal(directory)


@pytest.mark.parametrize(
    ("replace", "what"),
    [(link, "is not a directory"), (open_to_all, "mode 666"), (give_away, "uid 12345")],
    ids=["symlink", "mode", "owner"],
)
def test_a_directory_that_the_store_did_not_make_is_not_entered(
    tmp_path: Path, replace: Callable[[Path], None], what: str
) -> None:
    directory = seal_one(tmp_path)
    replace(directory)
    with open_store(tmp_path) as store, pytest.raises(PermanentError, match=what) as caught:
        store.load("python")
    assert caught.value.code is ErrorCode.TEMPLATE_CORRUPT


def test_an_extra_file_is_found_by_verifying(tmp_path: Path) -> None:
    directory = seal_one(tmp_path)
    (directory / "notes").touch()
    with open_store(tmp_path) as store, pytest.raises(PermanentError, match="'notes' does not"):
        store.verify("python")


def test_a_replaced_memory_is_found(tmp_path: Path, copier: Copier) -> None:
    directory = seal_one(tmp_path, copier=copier)
    fresh = tmp_path / "fresh"
    with fresh.open("wb") as file:
        file.truncate(SIZE_BYTES)
    fresh.chmod(0o600)
    fresh.replace(directory / "memory")
    assert "memory is changed between offsets 0 and 2097152" in refusal(directory, copier)


def test_the_template_of_another_name_is_foreign(tmp_path: Path) -> None:
    directory = seal_one(tmp_path)
    shutil.copytree(directory, directory.with_name("copy"))
    with open_store(tmp_path) as store:
        with pytest.raises(PermanentError, match="its manifest is that of template 'python'"):
            store.load("copy")
        with closing(store.load("python")):
            pass


def test_the_template_of_another_installation_is_foreign(tmp_path: Path) -> None:
    directory = seal_one(tmp_path)
    with (
        TemplateStore(tmp_path, owner="node-2", copier=reference_copy) as other,
        pytest.raises(PermanentError, match="made by installation 'node-1', this is 'node-2'"),
    ):
        other.load("python")
    assert directory.exists()


def test_a_manifest_too_large_to_read_is_not_read(tmp_path: Path) -> None:
    directory = seal_one(tmp_path)
    os.truncate(directory / "manifest.json", wire.MAX_BYTES + 1)
    assert "too many for any manifest" in refusal(directory)


def test_a_format_of_the_future_is_incompatible_and_kept(tmp_path: Path) -> None:
    directory = seal_one(tmp_path)
    future = msgspec.structs.replace(MANIFEST, format_version=wire.FORMAT_VERSION + 1)
    (directory / "manifest.json").write_bytes(wire.encode(future))
    with open_store(tmp_path) as store:
        with pytest.raises(PermanentError) as caught:
            store.load("python")
        assert caught.value.code is ErrorCode.TEMPLATE_INCOMPATIBLE
        assert [broken.name for broken in store.list_broken()] == ["python"]
    assert (directory / "memory").exists()
