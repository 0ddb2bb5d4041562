"""Reading binary packages."""

from __future__ import annotations

import pytest

from agentd.errors import PermanentError
from agentd.image.deb import unpack_deb
from agentd.image.tree import Tree
from tests.adapters.image.debian_repo import Package, _ar

SAMPLE = Package("x", files={"usr/bin/x": b"elf", "usr/bin/y": "x"}).build()


def test_files_links_and_modes_are_read() -> None:
    tree = Tree()
    unpack_deb(SAMPLE, "x", tree)
    entries = dict(tree)
    assert entries["usr/bin/x"].data == b"elf"
    assert entries["usr/bin/x"].mode & 0o7777 == 0o755
    assert entries["usr/bin/y"].is_link


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an ar archive"),
        (SAMPLE[:100], "its members are|longer than"),
        (SAMPLE[:-60], "longer than the archive"),
        (b"!<arch>\n" + _ar("data.tar.zst", b"?"), r"'data\.tar\.zst'\], none of"),
        (b"!<arch>\n" + _ar("data.tar.xz", b"not xz"), "LZMAError"),
        (b"!<arch>\n" + _ar("data.tar", b"x" * 600), "ReadError|HeaderError"),
        (Package("x", files={"../../etc/passwd": b""}).build(), "leaves the package"),
    ],
    ids=["empty", "no data", "cut", "zstd", "not xz", "not tar", "escape"],
)
def test_a_package_that_cannot_be_read_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(PermanentError, match=reason):
        unpack_deb(content, "x", Tree())
