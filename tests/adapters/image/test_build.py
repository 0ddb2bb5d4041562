"""Building images with the real APT from an archive on disk."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode, PermanentError, SnapStartError, TransientError
from agentd.image import Image, ImageSpec, ProgressEvent, build_image, list_images, load_image
from tests.adapters.image.debian_repo import DebianRepo, guest_packages
from tests.unit.image.cpio_reader import read_archive
from tests.unit.image.test_modules import elf_with_modinfo


def leftovers(cache: Path) -> list[str]:
    staging = cache / "staging"
    return sorted(path.name for path in staging.iterdir()) if staging.exists() else []


def package_names(image: Image) -> set[str]:
    return {package.name for package in image.manifest.packages}


def members(initrd: Path) -> dict[str, bytes]:
    return {member.path: member.entry.data for member in read_archive(initrd.read_bytes())}


def test_an_image_has_what_a_guest_needs(repo: DebianRepo, spec: ImageSpec, tmp_path: Path) -> None:
    image = build_image(spec, cache_dir=tmp_path / "cache")
    found = members(image.initrd_path)
    assert image.kernel_path.read_bytes() == b"\x7fELF kernel"
    assert found["usr/bin/dash"] == b"dash"
    assert found["bin"] == b"usr/bin"
    assert found["usr/lib/x86_64-linux-gnu/libblas.so.3"] == b"blas/libblas.so.3"
    assert "usr/lib/python3/dist-packages/numpy/tests" not in found
    assert "usr/lib/snapstart/agentd/guest/__main__.py" in found
    assert image.manifest.python == "/usr/bin/python3.11"
    image.verify_digests()


def test_installers_and_what_only_they_need_stay_out(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    names = {
        item.name for item in build_image(spec, cache_dir=tmp_path / "cache").manifest.packages
    }
    assert "libblas3" in names
    assert not names & {"dpkg", "tar", "kmod"}


def test_an_added_package_brings_what_it_asks_for(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    wish = dataclasses.replace(spec, packages=("dpkg",))
    names = {
        item.name for item in build_image(wish, cache_dir=tmp_path / "cache").manifest.packages
    }
    assert {"dpkg", "tar"} <= names


def test_two_builds_from_nothing_are_equal_byte_for_byte(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    first, second = (build_image(spec, cache_dir=tmp_path / name) for name in ("a", "b"))
    assert first.key == second.key
    assert first.initrd_path.read_bytes() == second.initrd_path.read_bytes()


def test_a_second_build_asks_neither_apt_nor_the_archive(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    first = build_image(spec, cache_dir=tmp_path / "cache")
    for deb in repo.pool.glob("*.deb"):
        deb.unlink()
    stages: list[str] = []
    again = build_image(
        spec, cache_dir=tmp_path / "cache", progress=lambda event: stages.append(event.stage)
    )
    assert again.directory == first.directory
    assert set(stages) == {"resolve"}


def test_nothing_is_written_into_the_machines_logs(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    build_image(spec, cache_dir=tmp_path / "cache")
    assert list(repo.logs.iterdir()) == []


def test_progress_ends_each_stage_at_its_total(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    last: dict[str, ProgressEvent] = {}
    build_image(
        spec, cache_dir=tmp_path / "cache", progress=lambda event: last.update({event.stage: event})
    )
    assert set(last) == {"resolve", "download", "unpack", "compile", "kernel", "write"}
    assert all(event.done == event.total for event in last.values())


def test_an_own_rootfs_gets_kernel_and_runtime_only(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    for folder in ("usr/bin", "usr/lib", "etc", "usr/share/doc"):
        (root / folder).mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "usr/bin/python3.11").write_bytes(b"\x7fELF")
    (root / "etc/passwd").write_text("theirs")
    (root / "usr/share/doc/README").write_text("kept")
    os.mkfifo(root / "etc/fifo")
    image = build_image(dataclasses.replace(spec, rootfs=root), cache_dir=tmp_path / "cache")
    found = members(image.initrd_path)
    assert found["etc/passwd"] == b"theirs"
    assert found["usr/share/doc/README"] == b"kept"
    assert "etc/fifo" not in found
    assert "init" in found
    assert [item.name[:12] for item in image.manifest.packages] == ["linux-image-"] * 2


def test_missing_lists_tell_the_operator_to_update(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    for path in repo.lists.glob("*Packages*"):
        path.unlink()
    with pytest.raises(ConfigError, match="apt-get update") as caught:
        build_image(spec, cache_dir=tmp_path / "cache")
    assert caught.value.code is ErrorCode.PACKAGES_UNAVAILABLE


def test_an_unknown_package_is_named(repo: DebianRepo, spec: ImageSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nosuchpackage"):
        build_image(
            dataclasses.replace(spec, packages=("nosuchpackage",)), cache_dir=tmp_path / "cache"
        )
    assert leftovers(tmp_path / "cache") == []


def test_no_apt_is_said_in_words(
    spec: ImageSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="'apt-config' is not installed"):
        build_image(spec, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("name", ["python3.9", "dash-", "p.*"])
def test_a_name_that_apt_would_take_for_something_else_is_refused(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SnapStartError) as caught:
        build_image(dataclasses.replace(spec, packages=(name,)), cache_dir=tmp_path / "cache")
    assert caught.value.code in {ErrorCode.PACKAGES_UNAVAILABLE, ErrorCode.NAME_INVALID}


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_package_in_the_cache_is_downloaded_again(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path, damage: str
) -> None:
    cache = tmp_path / "cache"
    first = build_image(spec, cache_dir=cache)
    for deb in (cache / "debs").iterdir():
        content = bytearray(deb.read_bytes())
        content[len(content) // 2] ^= 1
        deb.write_bytes(content if damage == "flipped" else content[:50])
    again = build_image(dataclasses.replace(spec, preload=()), cache_dir=cache)
    assert again.key != first.key
    assert again.manifest.packages == first.manifest.packages


def test_a_package_that_does_not_match_the_lists_is_refused(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    deb = repo.deb("dash")
    deb.write_bytes(deb.read_bytes()[:-1] + b"!")
    with pytest.raises(SnapStartError) as caught:
        build_image(spec, cache_dir=tmp_path / "cache")
    assert caught.value.code is ErrorCode.PACKAGES_UNAVAILABLE
    assert leftovers(tmp_path / "cache") == []


def test_an_archive_that_moved_on_is_worth_another_try(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    repo.deb("dash").unlink()
    with pytest.raises(TransientError, match="apt-get update"):
        build_image(spec, cache_dir=tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_a_missing_kernel_module_is_refused_and_leaves_nothing(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="nosuchmodule"):
        build_image(
            dataclasses.replace(spec, kernel_modules=("nosuchmodule",)),
            cache_dir=tmp_path / "cache",
        )
    assert leftovers(tmp_path / "cache") == []
    assert list_images(tmp_path / "cache") == []


def test_modules_of_the_vsock_are_there_and_loaded_only_where_there_is_one(
    tmp_path: Path, spec: ImageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = "kernel/net/vmw_vsock"
    kernel = {
        f"{net}/vmw_vsock_virtio_transport.ko": elf_with_modinfo(
            b"depends=vsock,vmw_vsock_virtio_transport_common\0"
        ),
        f"{net}/vmw_vsock_virtio_transport_common.ko": elf_with_modinfo(b"depends=vsock\0"),
        f"{net}/vsock.ko": elf_with_modinfo(b"depends=\0"),
        f"{net}/hv_sock.ko": elf_with_modinfo(b"depends=vsock\0"),
    }
    archive = DebianRepo(tmp_path / "other", guest_packages(kernel))
    archive.update()
    monkeypatch.setenv("APT_CONFIG", str(archive.config))
    image = build_image(spec, cache_dir=tmp_path / "cache")
    found = members(image.initrd_path)
    assert [Path(line).stem for line in found["etc/snapstart/modules-vsock"].decode().split()] == [
        "vsock",
        "vmw_vsock_virtio_transport_common",
        "vmw_vsock_virtio_transport",
    ]
    assert b"vsock" not in found["etc/snapstart/modules"]
    assert image.manifest.modules == ()
    assert not any("hv_sock" in path for path in found)


def test_a_module_that_every_machine_loads_is_not_loaded_again_for_the_vsock(
    tmp_path: Path, spec: ImageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = {
        "kernel/vmw_vsock_virtio_transport.ko": elf_with_modinfo(b"depends=vsock\0"),
        "kernel/vsock.ko": elf_with_modinfo(b"depends=\0"),
    }
    archive = DebianRepo(tmp_path / "other", guest_packages(kernel))
    archive.update()
    monkeypatch.setenv("APT_CONFIG", str(archive.config))
    wish = dataclasses.replace(spec, kernel_modules=("vsock",))
    found = members(build_image(wish, cache_dir=tmp_path / "cache").initrd_path)
    (line,) = found["etc/snapstart/modules-vsock"].decode().split()
    assert line.endswith("/vmw_vsock_virtio_transport.ko")


def test_a_kernel_without_vsock_makes_an_image_all_the_same(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    found = members(build_image(spec, cache_dir=tmp_path / "cache").initrd_path)
    assert found["etc/snapstart/modules-vsock"] == b""


def test_an_unwritable_cache_is_a_clear_error(repo: DebianRepo, spec: ImageSpec) -> None:
    with pytest.raises(ConfigError) as caught:  # not even root may make a directory in sysfs
        build_image(spec, cache_dir=Path("/sys/kernel/snapstart-cache"))
    assert caught.value.code is ErrorCode.PERMISSION_DENIED
    assert "snapstart-cache" in str(caught.value)


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(TransientError) as caught:
        build_image(spec, cache_dir=tmp_path / "cache")
    assert caught.value.code is ErrorCode.DISK_FULL
    assert leftovers(tmp_path / "cache") == []
    assert list_images(tmp_path / "cache") == []


class _StopError(Exception):
    pass


@pytest.mark.parametrize("stage", ["resolve", "download", "unpack", "compile", "kernel", "write"])
def test_a_build_that_is_stopped_leaves_nothing_and_can_be_repeated(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path, stage: str
) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.stage == stage:
            raise _StopError

    with pytest.raises(_StopError):
        build_image(spec, cache_dir=tmp_path / "cache", progress=stop)
    assert leftovers(tmp_path / "cache") == []
    assert list_images(tmp_path / "cache") == []
    build_image(spec, cache_dir=tmp_path / "cache").verify_digests()


def test_two_builders_at_once_get_the_same_image(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    images: list[object] = []

    def build() -> None:
        try:
            images.append(build_image(spec, cache_dir=tmp_path / "cache").directory)
        except Exception as exc:
            images.append(exc)

    with _threads(build, build):
        pass
    assert images == [list_images(tmp_path / "cache")[0].directory] * 2
    assert leftovers(tmp_path / "cache") == []


@contextmanager
def _threads(*targets: object) -> Iterator[None]:
    threads = [threading.Thread(target=target) for target in targets]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def test_a_damaged_image_is_built_again(repo: DebianRepo, spec: ImageSpec, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    image = build_image(spec, cache_dir=cache)
    whole = image.initrd_path.read_bytes()
    image.initrd_path.write_bytes(whole[:-512])
    with pytest.raises(PermanentError, match="bytes, not"):
        load_image(image.key, cache)
    assert list_images(cache) == []
    assert build_image(spec, cache_dir=cache).initrd_path.read_bytes() == whole


def test_a_changed_byte_is_found_when_digests_are_verified(
    repo: DebianRepo, spec: ImageSpec, tmp_path: Path
) -> None:
    image = build_image(spec, cache_dir=tmp_path / "cache")
    content = bytearray(image.initrd_path.read_bytes())
    content[2000] ^= 1
    image.initrd_path.write_bytes(content)
    again = load_image(image.directory, tmp_path / "cache")
    with pytest.raises(PermanentError, match=r"initrd\.cpio has SHA256"):
        again.verify_digests()
