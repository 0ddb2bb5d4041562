"""Look at the system for what could be user state: processes, sockets, files, mounts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentd.guest.wire import JsonObject

_PF_KTHREAD = 0x00200000
_NET_TABLES = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
_TCP_LISTEN = "0A"
_FILES_MAX = 100_000

FileFacts = tuple[int, int, int, int]


@dataclass(frozen=True)
class Process:
    """One process, as proc(5) shows it."""

    pid: int
    ppid: int
    name: str
    cmdline: str
    threads: int

    def as_json(self) -> JsonObject:
        """The protocol's form."""
        return {
            "pid": self.pid,
            "ppid": self.ppid,
            "name": self.name,
            "cmdline": self.cmdline,
            "threads": self.threads,
        }


@dataclass(frozen=True)
class Observation:
    """What was there at one moment; sockets and files by a text or path that people can read."""

    processes: tuple[Process, ...] = ()
    sockets: frozenset[str] = frozenset()
    connections: frozenset[str] = frozenset()
    open_files: frozenset[str] = frozenset()
    files: dict[str, FileFacts] = field(default_factory=dict)
    mounts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Poller:
    """A connection over which the report itself is asked for: one thread, one socket."""

    pid: int = 0
    inode: int = 0


NOBODY = Poller()


def observe(
    proc: str, roots: Iterable[str], *, root_pid: int, poller: Poller = NOBODY
) -> Observation:
    """Everything below process `root_pid`, every file below `roots`, without the poller.

    Args: proc: where procfs is mounted.
    """
    processes = tuple(
        replace(process, threads=process.threads - 1) if process.pid == poller.pid else process
        for process in _descendants(list(_processes(proc)), root_pid)
    )
    links = {process.pid: _links(proc, process.pid) for process in processes}
    inodes = {text[8:-1] for fds in links.values() for text in fds if text.startswith("socket:[")}
    inodes.discard(str(poller.inode))
    sockets, connections = _sockets(proc, inodes)
    return Observation(
        processes=processes,
        sockets=sockets,
        connections=connections,
        open_files=frozenset(
            f"{pid}:{text}" for pid, fds in links.items() for text in fds if _is_file(text)
        ),
        files=scan_files(roots),
        mounts=_mounts(proc),
    )


def scan_files(roots: Iterable[str]) -> dict[str, FileFacts]:
    """Path to size, mtime in ns, inode, mode of everything below the roots."""
    found: dict[str, FileFacts] = {}
    pending = [root for root in roots if os.path.isdir(root)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                facts = _facts(entry)
                if facts is None or len(found) >= _FILES_MAX:
                    continue
                found[entry.path] = facts
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return found


def _facts(entry: os.DirEntry[str]) -> FileFacts | None:
    try:
        info = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    if stat.S_ISDIR(info.st_mode):
        return (0, 0, info.st_ino, info.st_mode)
    return (info.st_size, info.st_mtime_ns, info.st_ino, info.st_mode)


def _processes(proc: str) -> Iterator[Process]:
    for name in os.listdir(proc):
        if name.isdigit():
            with suppress(OSError, ValueError):
                process = _process(Path(proc, name), int(name))
                if process is not None:
                    yield process


def _process(folder: Path, pid: int) -> Process | None:
    text = (folder / "stat").read_text("utf-8", "replace")
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    if int(fields[6]) & _PF_KTHREAD or fields[0] in "ZX":
        return None
    cmdline = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return Process(pid, int(fields[1]), name, cmdline.strip()[:500], int(fields[17]))


def descendants_of(proc: str, root_pid: int, spared: set[int]) -> set[int]:
    """Pids below `root_pid`, without the spared ones and what is below them."""
    processes = [process for process in _processes(proc) if process.pid not in spared]
    return {process.pid for process in _descendants(processes, root_pid)} - {root_pid}


def _descendants(processes: list[Process], root_pid: int) -> Iterator[Process]:
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.ppid, []).append(process)
    pending = [process for process in processes if process.pid == root_pid]
    while pending:
        process = pending.pop()
        yield process
        pending += children.get(process.pid, [])


def _links(proc: str, pid: int) -> list[str]:
    links: list[str] = []
    folder = f"{proc}/{pid}/fd"
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                links.append(os.readlink(f"{folder}/{name}"))
    return links


def _is_file(text: str) -> bool:
    return text.startswith("/") and not text.startswith(("/dev/", "/proc/"))


def _sockets(proc: str, inodes: set[str]) -> tuple[frozenset[str], frozenset[str]]:
    sockets: set[str] = set()
    connections: set[str] = set()
    for table in _NET_TABLES:
        for fields in _rows(f"{proc}/net/{table}"):
            if len(fields) > 9 and fields[9] in inodes:
                is_connected = fields[3] != _TCP_LISTEN and not fields[2].endswith(":0000")
                place = connections if is_connected else sockets
                place.add(f"{table} {fields[1]} {fields[2]}")
    for fields in _rows(f"{proc}/net/unix"):
        if len(fields) > 6 and fields[6] in inodes:
            sockets.add(f"unix {fields[6]} {' '.join(fields[7:])}".rstrip())
    for fields in _rows(f"{proc}/net/packet"):
        if len(fields) > 8 and fields[8] in inodes:
            sockets.add(f"packet {fields[8]}")
    return frozenset(sockets), frozenset(connections)


def _rows(path: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path(path).read_text("utf-8", "replace").splitlines()[1:]]
    except OSError:
        return []


def _mounts(proc: str) -> frozenset[str]:
    rows = _rows_all(f"{proc}/self/mounts")
    return frozenset(" ".join(fields[:3]) for fields in rows if len(fields) > 2)


def _rows_all(path: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path(path).read_text("utf-8", "replace").splitlines()]
    except OSError:
        return []
