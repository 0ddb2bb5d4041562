"""How packages merge into one file tree."""

from __future__ import annotations

import pytest

from agentd.errors import PermanentError
from agentd.image.overlay import new_debian_tree
from agentd.image.tree import Tree, directory, file, link


def paths(tree: Tree) -> list[str]:
    return [path for path, _ in tree]


def test_a_package_path_below_bin_lands_in_usr_bin() -> None:
    tree = new_debian_tree()
    tree.add("./bin/dash", file(b"elf", 0o755))
    assert "usr/bin/dash" in paths(tree)
    assert "bin/dash" not in paths(tree)


def test_a_package_directory_does_not_replace_the_merged_usr_link() -> None:
    tree = new_debian_tree()
    tree.add("./lib/", directory())
    tree.add("./lib/x86_64-linux-gnu/libc.so.6", file(b"libc"))
    assert dict(tree)["lib"].is_link
    assert tree.get("usr/lib/x86_64-linux-gnu/libc.so.6") == file(b"libc")


def test_an_absolute_link_is_followed_inside_the_tree() -> None:
    tree = Tree()
    tree.add("data", link("/srv/deep"))
    tree.add("data/file", file(b"x"))
    assert "srv/deep/file" in paths(tree)


def test_a_link_that_climbs_out_stops_at_the_root() -> None:
    tree = Tree()
    tree.add("up", link("../../../etc"))
    tree.add("up/passwd", file(b"x"))
    assert "etc/passwd" in paths(tree)


def test_missing_parents_are_made_as_directories() -> None:
    tree = Tree()
    tree.add("a/b/c", file(b""))
    assert paths(tree) == ["a", "a/b", "a/b/c"]
    assert dict(tree)["a/b"] == directory()


def test_a_later_file_replaces_an_earlier_one() -> None:
    tree = Tree()
    tree.add("x", file(b"old"))
    tree.add("x", file(b"new"))
    assert tree.get("x") == file(b"new")


def test_a_later_link_replaces_a_link_and_not_its_target() -> None:
    tree = Tree()
    tree.add("real", file(b"content"))
    tree.add("name", link("real"))
    tree.add("name", link("other"))
    assert tree.get("real") == file(b"content")
    assert dict(tree)["name"] == link("other")


@pytest.mark.parametrize(
    ("first", "second"),
    [(("x", directory()), ("x", file(b""))), (("x", file(b"")), ("x", directory()))],
    ids=["file over directory", "directory over file"],
)
def test_a_file_and_a_directory_at_one_path_are_refused(
    first: tuple[str, object], second: tuple[str, object]
) -> None:
    tree = Tree()
    tree.add(*first)  # type: ignore[arg-type]
    with pytest.raises(PermanentError, match="same place"):
        tree.add(*second)  # type: ignore[arg-type]


def test_a_path_below_a_file_is_refused() -> None:
    tree = Tree()
    tree.add("x", file(b""))
    with pytest.raises(PermanentError, match="same place"):
        tree.add("x/y", file(b""))


def test_a_link_loop_is_refused() -> None:
    tree = Tree()
    tree.add("a", link("b"))
    tree.add("b", link("a"))
    with pytest.raises(PermanentError, match="too many symbolic links"):
        tree.add("a/x", file(b""))


def test_removing_a_directory_removes_what_is_below() -> None:
    tree = Tree()
    tree.add("usr/share/doc/x/copyright", file(b""))
    tree.add("usr/share/zoneinfo/UTC", file(b""))
    tree.remove_if(lambda path: path == "usr/share/doc")
    assert paths(tree) == ["usr", "usr/share", "usr/share/zoneinfo", "usr/share/zoneinfo/UTC"]
