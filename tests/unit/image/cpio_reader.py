"""A reader of newc archives, written from the kernel's format description, not from our writer."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.image.tree import Entry


@dataclass(frozen=True)
class Member:
    path: str
    entry: Entry
    inode: int
    mtime_s: int


def read_archive(data: bytes) -> list[Member]:
    members = []
    offset = 0
    while True:
        assert data[offset : offset + 6] == b"070701", f"no header at {offset}"
        fields = [int(data[offset + 6 + 8 * i : offset + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, uid, gid, _, mtime, size, _, _, major, minor, name_size, _ = fields
        name = data[offset + 110 : offset + 110 + name_size - 1].decode()
        start = (offset + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return members
        entry = Entry(mode, data[start : start + size], uid, gid, (major, minor))
        members.append(Member(name, entry, inode, mtime))
        offset = (start + size + 3) // 4 * 4
