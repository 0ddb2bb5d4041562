"""What gives an image another name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentd.image.key import compute_key
from agentd.image.manifest import PackageRecord
from agentd.image.spec import ImageSpec
from agentd.image.tree import Tree, file

PACKAGE = PackageRecord("dash", "0.5.12-2", "amd64", "aa" * 32, 91848)
BASE: dict[str, Any] = {
    "spec": ImageSpec(),
    "packages": [PACKAGE],
    "runtime": {"__main__.py": b"main", "wire.py": b"wire"},
    "rootfs": None,
}


def tree(content: bytes) -> Tree:
    made = Tree()
    made.add("etc/hostname", file(content))
    return made


def test_the_same_inputs_give_the_same_key() -> None:
    reordered = {"wire.py": b"wire", "__main__.py": b"main"}
    assert compute_key(**BASE) == compute_key(**{**BASE, "runtime": reordered})


@pytest.mark.parametrize(
    "change",
    [
        {"spec": ImageSpec(preload=())},
        {"spec": ImageSpec(kernel_modules=("virtio",))},
        {"packages": []},
        {"packages": [msgspec.structs.replace(PACKAGE, version="0.5.12-3")]},
        {"packages": [msgspec.structs.replace(PACKAGE, sha256="bb" * 32)]},
        {"runtime": {"__main__.py": b"main", "wire.py": b"WIRE"}},
        {"runtime": {"__main__.py": b"main", "wires.py": b"wire"}},
        {"rootfs": tree(b"a")},
    ],
    ids=["preload", "modules", "packages", "version", "digest", "source", "name", "rootfs"],
)
def test_a_change_of_any_input_changes_the_key(change: dict[str, Any]) -> None:
    assert compute_key(**BASE) != compute_key(**{**BASE, **change})


def test_the_content_of_a_rootfs_counts() -> None:
    first = compute_key(**{**BASE, "rootfs": tree(b"a")})
    assert first != compute_key(**{**BASE, "rootfs": tree(b"b")})


def test_the_path_of_the_runtime_does_not_count(tmp_path: Any) -> None:
    moved = {**BASE, "spec": ImageSpec(runtime_dir=tmp_path)}
    assert compute_key(**moved) == compute_key(**BASE)


def test_item_88_another_auth_key_is_another_image_hence_another_template() -> None:
    keys = set()
    for pem in ("old", "new"):
        rootfs = Tree()
        rootfs.add("etc/snapstart/runtime.json", file(f'{{"auth_public_key": "{pem}"}}'.encode()))
        keys.add(compute_key(**{**BASE, "rootfs": rootfs}))
    assert len(keys) == 2
