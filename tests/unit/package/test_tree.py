"""What is new in a file system."""

from __future__ import annotations

from pathlib import Path

from tests.package.tree import left_behind, read_tree, topmost


def test_only_the_topmost_of_new_paths_is_told() -> None:
    assert topmost(["/a/b/c", "/a/b", "/a/b-c", "/d"]) == ["/a/b", "/a/b-c", "/d"]


def test_new_and_changed_files_are_left_behind(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("1")
    (tmp_path / "changed").write_text("1")
    before = read_tree(tmp_path)
    (tmp_path / "changed").write_text("12")
    (tmp_path / "new" / "below").mkdir(parents=True)
    assert left_behind(before, read_tree(tmp_path)) == ["/changed", "/new"]


def test_a_file_in_a_directory_that_was_there_is_found(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    before = read_tree(tmp_path)
    (tmp_path / "var" / "left").touch()
    assert left_behind(before, read_tree(tmp_path)) == ["/var/left"]


def test_what_is_not_on_the_disk_is_not_looked_at(tmp_path: Path) -> None:
    before = read_tree(tmp_path)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "1").touch()
    assert left_behind(before, read_tree(tmp_path)) == []
