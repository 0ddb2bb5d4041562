"""What every guest gets from us."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentd import RELEASE
from agentd.errors import ConfigError
from agentd.image.overlay import (
    SETTINGS_FILE,
    add_modules,
    add_runtime,
    add_vsock_modules,
    find_python,
    finish_debian_tree,
    new_debian_tree,
    read_runtime,
)
from agentd.image.tree import Tree, directory, file, link

BLAS = "usr/lib/x86_64-linux-gnu"


def content(tree: Tree, path: str) -> str:
    entry = tree.get(path)
    assert entry is not None
    return entry.data.decode()


def test_init_runs_the_guest_runtime_with_the_guests_own_python() -> None:
    tree = new_debian_tree()
    add_runtime(tree, {"__main__.py": b"def main(): ..."}, "usr/bin/python3.11", ())
    assert content(tree, "init").startswith("#!/usr/bin/python3.11 -I\n")
    compile(content(tree, "init"), "init", "exec")
    assert dict(tree)["init"].mode & 0o777 == 0o755
    assert content(tree, "usr/lib/snapstart/agentd/__init__.py") == ""
    assert tree.has("usr/lib/snapstart/agentd/guest/__main__.py")


def test_the_preload_list_is_written_in_order() -> None:
    tree = Tree()
    add_runtime(tree, {}, "usr/bin/python3.11", ("numpy", "json"))
    assert json.loads(content(tree, SETTINGS_FILE))["preload"] == ["numpy", "json"]


def test_the_settings_of_a_rootfs_are_kept_where_the_builder_has_none() -> None:
    tree = Tree()
    tree.add(SETTINGS_FILE, file(b'{"max_processes": 7, "preload": ["old"], "version": "0"}'))
    add_runtime(tree, {}, "usr/bin/python3.11", ("new",))
    assert json.loads(content(tree, SETTINGS_FILE)) == {
        "max_processes": 7,
        "preload": ["new"],
        "version": RELEASE,
    }


@pytest.mark.parametrize("text", [b"", b"[]", b"{"])
def test_settings_of_a_rootfs_that_are_no_object_are_refused(text: bytes) -> None:
    tree = Tree()
    tree.add(SETTINGS_FILE, file(text))
    with pytest.raises(ConfigError, match=r"runtime\.json"):
        add_runtime(tree, {}, "usr/bin/python3.11", ())


def test_the_workspace_belongs_to_the_user_and_tmp_is_sticky() -> None:
    tree = Tree()
    add_runtime(tree, {}, "usr/bin/python3.11", ())
    assert dict(tree)["workspace"] == directory(uid=1000, gid=1000)
    assert dict(tree)["tmp"] == directory(0o1777)


def test_modules_are_listed_in_load_order() -> None:
    tree = new_debian_tree()
    add_modules(tree, {"lib/modules/6.1/z.ko": b"z", "lib/modules/6.1/a.ko": b"a"})
    assert (
        content(tree, "etc/snapstart/modules") == "/lib/modules/6.1/z.ko\n/lib/modules/6.1/a.ko\n"
    )
    assert tree.get("usr/lib/modules/6.1/a.ko") == file(b"a")


def test_modules_of_the_vsock_have_a_list_of_their_own() -> None:
    tree = new_debian_tree()
    add_modules(tree, {"lib/modules/6.1/a.ko": b"a"})
    add_vsock_modules(tree, {"lib/modules/6.1/v.ko": b"v"})
    assert content(tree, "etc/snapstart/modules") == "/lib/modules/6.1/a.ko\n"
    assert content(tree, "etc/snapstart/modules-vsock") == "/lib/modules/6.1/v.ko\n"
    assert tree.get("usr/lib/modules/6.1/v.ko") == file(b"v")


def test_alternatives_prefer_openblas_to_the_reference() -> None:
    tree = new_debian_tree()
    for provider in ("blas", "openblas-pthread"):
        tree.add(f"{BLAS}/{provider}/libblas.so.3", file(provider.encode()))
    finish_debian_tree(tree)
    assert content(tree, f"{BLAS}/libblas.so.3") == "openblas-pthread"
    assert not tree.has(f"{BLAS}/liblapack.so.3")


def test_a_library_that_is_no_alternative_stays() -> None:
    tree = new_debian_tree()
    tree.add(f"{BLAS}/blas/libblas.so.3", file(b"reference"))
    tree.add(f"{BLAS}/libblas.so.3", file(b"own"))
    finish_debian_tree(tree)
    assert content(tree, f"{BLAS}/libblas.so.3") == "own"


def test_the_newest_python_is_found_and_links_do_not_count() -> None:
    tree = Tree()
    for name in ("python3.9", "python3.11", "python3.11-config"):
        tree.add(f"usr/bin/{name}", file(b""))
    tree.add("usr/bin/python3", link("python3.11"))
    assert find_python(tree) == ("usr/bin/python3.11", (3, 11))


def test_a_rootfs_without_python_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is none"):
        find_python(Tree())


def test_a_runtime_without_an_entry_point_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wire.py").write_text("")
    with pytest.raises(ConfigError, match="no __main__"):
        read_runtime(tmp_path)
