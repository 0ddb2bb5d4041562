"""Building the image that users get, from Debian's own archive."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from agentd.errors import ConfigError, TransientError
from agentd.image import Image, ImageSpec, build_image
from tests.unit.image.cpio_reader import read_archive

PRESENT = {
    "etc/os-release",
    "usr/bin/dash",
    "usr/bin/python3.11",
    "usr/lib/python3/dist-packages/numpy/__init__.py",
    "usr/lib/x86_64-linux-gnu/libblas.so.3",
    "usr/lib/x86_64-linux-gnu/liblapack.so.3",
}


def build_or_skip(spec: ImageSpec, cache: Path) -> Image:
    try:
        return build_image(spec, cache_dir=cache)
    except (ConfigError, TransientError) as exc:
        pytest.skip(f"Debian's packages cannot be had here: {exc}")


@pytest.mark.timeout(300)
def test_two_builds_from_debian_are_equal_byte_for_byte(tmp_path: Path, spec: ImageSpec) -> None:
    first = build_or_skip(spec, tmp_path / "a")
    shutil.copytree(tmp_path / "a/debs", tmp_path / "b/debs", copy_function=os.link)
    second = build_image(spec, cache_dir=tmp_path / "b")

    first.verify_digests()
    assert first.key == second.key
    assert first.manifest.kernel == second.manifest.kernel
    assert first.manifest.initrd == second.manifest.initrd
    assert first.manifest.modules[-1] == "virtio_console"
    assert not first.manifest.notes, "lz4 and Python 3.11 are what the project asks for"

    entries = {member.path: member.entry for member in read_archive(first.initrd_path.read_bytes())}
    assert entries.keys() >= PRESENT
    assert all(path.rpartition("/")[0] in {"", *entries} for path in entries)
    for path in ("usr/bin/sh", "usr/bin/python3", "usr/lib/x86_64-linux-gnu/libblas.so.3"):
        target = os.path.join(os.path.dirname(path), entries[path].data.decode())
        assert os.path.normpath(target) in entries
