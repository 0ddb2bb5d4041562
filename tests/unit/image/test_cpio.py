"""The archive that the kernel unpacks."""

from __future__ import annotations

import io
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.errors import PermanentError
from agentd.image.cpio import MTIME_S, write_archive
from agentd.image.tree import Entry, Tree, char_device, directory, file, link
from tests.unit.image.cpio_reader import read_archive


def archive(tree: Tree) -> bytes:
    out = io.BytesIO()
    size = write_archive(tree, out)
    assert size == len(out.getvalue())
    return out.getvalue()


def sample() -> Tree:
    tree = Tree()
    tree.add("workspace", directory(uid=1000, gid=1000))
    tree.add("tmp", directory(0o1777))
    tree.add("dev/console", char_device(5, 1, 0o600))
    tree.add("usr/bin/python3", link("python3.11"))
    tree.add("usr/bin/python3.11", file(b"\x7fELF", 0o755))
    tree.add("etc/machine-id", file(b""))
    return tree


def test_what_is_written_reads_back_equal() -> None:
    members = read_archive(archive(sample()))
    assert [(member.path, member.entry) for member in members] == list(sample())


def test_times_and_inodes_depend_on_nothing_but_order() -> None:
    members = read_archive(archive(sample()))
    assert {member.mtime_s for member in members} == {MTIME_S}
    assert [member.inode for member in members] == list(range(1, len(members) + 1))


def test_equal_trees_made_in_another_order_give_equal_bytes() -> None:
    other = Tree()
    for path, entry in reversed(list(sample())):
        other.add(path, entry)
    assert archive(other) == archive(sample())


def test_the_archive_fills_whole_blocks() -> None:
    assert len(archive(sample())) % 512 == 0


def test_a_device_node_needs_no_privilege() -> None:
    console = next(m for m in read_archive(archive(sample())) if m.path == "dev/console")
    assert stat.S_ISCHR(console.entry.mode)
    assert console.entry.device == (5, 1)


def test_a_file_of_four_gibibytes_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(PermanentError, match="less than 4 GiB"):
        write_archive([("big", Entry(stat.S_IFREG | 0o644, Huge()))], io.BytesIO())


@settings(deadline=None)
@given(st.dictionaries(st.text("abc-.", min_size=1, max_size=9).filter(lambda n: n.strip(".")),
                       st.binary(max_size=9)))  # fmt: skip
def test_any_names_and_contents_survive(files: dict[str, bytes]) -> None:
    tree = Tree()
    for name, content in files.items():
        tree.add(name, file(content))
    found = {member.path: member.entry.data for member in read_archive(archive(tree))}
    assert found == files
