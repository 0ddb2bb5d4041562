"""An image whose directory belongs to somebody hostile is refused, and leads nowhere."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agentd.errors import ErrorCode, PermanentError
from agentd.image import Image, load_image
from agentd.image.opening import open_regular
from agentd.vmm.launch import Launch
from tests.fakes.daemon import make_image


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_image(tmp_path / "image")


def rewrite(directory: Path, **members: object) -> None:
    """Change members of the kernel's record."""
    path = directory / "image.json"
    said = msgspec.json.decode(path.read_bytes())
    said["kernel"].update(members)
    path.write_bytes(msgspec.json.encode(said))


def as_link(directory: Path) -> None:
    kernel = directory / "kernel"
    kernel.rename(directory.parent / "elsewhere")
    kernel.symlink_to(directory.parent / "elsewhere")


def as_fifo(directory: Path) -> None:
    (directory / "kernel").unlink()
    os.mkfifo(directory / "kernel")


def as_directory(directory: Path) -> None:
    (directory / "kernel").unlink()
    (directory / "kernel").mkdir()


def manifest_as_link(directory: Path) -> None:
    path = directory / "image.json"
    path.rename(directory.parent / "elsewhere.json")
    path.symlink_to(directory.parent / "elsewhere.json")


def manifest_as_fifo(directory: Path) -> None:
    (directory / "image.json").unlink()
    os.mkfifo(directory / "image.json")


def manifest_without_end(directory: Path) -> None:
    """A terabyte that takes no space: who reads it whole has no memory left."""
    os.truncate(directory / "image.json", 1 << 40)


def cut(directory: Path) -> None:
    os.truncate(directory / "kernel", 3)


def sparse(directory: Path) -> None:
    os.truncate(directory / "kernel", 1 << 40)


HARMS: dict[str, Callable[[Path], None]] = {
    "kernel is a link": as_link,
    "kernel is a fifo": as_fifo,
    "kernel is a directory": as_directory,
    "manifest is a link": manifest_as_link,
    "manifest is a fifo": manifest_as_fifo,
    "manifest is a terabyte": manifest_without_end,
    "kernel is cut": cut,
    "kernel is a terabyte": sparse,
    "name climbs": lambda d: rewrite(d, name="../image/kernel"),
    "name is absolute": lambda d: rewrite(d, name="/etc/passwd"),
    "name is the parent": lambda d: rewrite(d, name=".."),
    "name is the directory": lambda d: rewrite(d, name="."),
    "name is empty": lambda d: rewrite(d, name=""),
    "name has a NUL": lambda d: rewrite(d, name="kernel\0x"),
    "size is negative": lambda d: rewrite(d, size_bytes=-1),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_a_hostile_image_is_refused_at_once(
    directory: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    harm(directory)
    with pytest.raises(PermanentError) as caught:
        load_image(directory, tmp_path)
    assert caught.value.code is ErrorCode.IMAGE_INVALID
    assert "root:" not in caught.value.message


def test_what_is_swapped_for_a_link_after_the_check_is_not_opened(
    directory: Path, tmp_path: Path
) -> None:
    """Else whoever may use the API reads any file of root's through a guest's initrd."""
    secret = tmp_path / "shadow"
    secret.write_text("secret")
    image: Image = load_image(directory, tmp_path)
    image.verify_digests()
    image.initrd_path.unlink()
    image.initrd_path.symlink_to(secret)
    launch = Launch("s-1", tmp_path, None)
    try:
        with pytest.raises(OSError, match="symbolic links") as caught:
            launch.inherit_file(image.initrd_path, 15)
        assert caught.value.errno == errno.ELOOP
        assert launch.inherited == {}
    finally:
        launch.close()


def test_nor_is_a_directory_that_was_swapped_for_a_link(directory: Path, tmp_path: Path) -> None:
    image = load_image(directory, tmp_path)
    elsewhere = make_image(tmp_path / "elsewhere")
    directory.rename(tmp_path / "before")
    directory.symlink_to(elsewhere)
    with pytest.raises(PermanentError):
        image.verify_digests()
    with pytest.raises(NotADirectoryError):
        open_regular(image.kernel_path)


def test_a_link_that_leads_to_an_image_is_the_operators_own(
    directory: Path, tmp_path: Path
) -> None:
    link = tmp_path / "current"
    link.symlink_to(directory)
    image = load_image(link, tmp_path)
    assert image.directory == directory
    image.verify_digests()


def test_links_that_lead_in_a_circle_are_no_image(tmp_path: Path) -> None:
    link = tmp_path / "circle"
    link.symlink_to(link)
    with pytest.raises(PermanentError) as caught:
        load_image(link, tmp_path)
    assert caught.value.code is ErrorCode.IMAGE_INVALID


def test_an_opened_file_leaves_no_other_descriptor(directory: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    fd = open_regular(directory / "kernel")
    try:
        assert len(set(os.listdir("/proc/self/fd")) - before) == 1
        content = os.pread(fd, 100, 0)
        assert hashlib.sha256(content).hexdigest() == hashlib.sha256(b"kernel").hexdigest()
    finally:
        os.close(fd)
