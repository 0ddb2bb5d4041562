"""Look for what a demonstration has left on this host."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from bench.cluster.network import NETNS


class Leaks(msgspec.Struct, frozen=True, kw_only=True):
    """What is still there, each by a name that a person can look up."""

    processes: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Of everything."""
        return sum(len(getattr(self, name)) for name in self.__struct_fields__)


@dataclass(frozen=True)
class Marks:
    """By what a run's things are known.

    tag: in the name of every namespace and link. machines: what the name of each machine of the
    run's nodes begins with. known: children of this process that were there before.
    """

    directory: Path
    tag: str
    machines: tuple[str, ...] = ()
    known: frozenset[int] = frozenset()


def child_pids() -> frozenset[int]:
    """The children of this process with theirs, also those that ended and were not reaped."""
    return frozenset(child.pid for child in psutil.Process().children(recursive=True))


def find_leaks(marks: Marks) -> Leaks:
    """What there is of a run. Routes go with their links, addresses with their namespaces."""
    links = [path.name for path in _entries(Path("/sys/class/net"))]
    return Leaks(
        processes=tuple(_processes(marks)),
        namespaces=tuple(sorted(path.name for path in _entries(NETNS) if marks.tag in path.name)),
        links=tuple(sorted(name for name in links if marks.tag in name)),
        mounts=tuple(_mounts(marks)),
        files=tuple(sorted(str(path) for path in _tree(marks.directory))),
    )


def processes_of(text: str) -> list[psutil.Process]:
    """The processes whose command line has a text, but for this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(text in word for word in process.cmdline()):
                found.append(process)
    return found


def _processes(marks: Marks) -> Iterator[str]:
    """Those of the run, wherever they hang, and any child of ours, dead and not reaped too."""
    found = set(child_pids() - marks.known)
    for text in (str(marks.directory), *marks.machines):
        found |= {process.pid for process in processes_of(text)}
    for pid in sorted(found):
        with contextlib.suppress(psutil.NoSuchProcess):
            yield f"{pid} {psutil.Process(pid).name()}"


def _entries(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _mounts(marks: Marks) -> Iterator[str]:
    """Field 5 of each line (proc(5)) is where it is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = line.split()[4]
        if where.startswith(str(marks.directory)) or f"snapstart-{marks.tag}-" in where:
            yield where


def _tree(directory: Path) -> Iterator[Path]:
    if directory.exists():
        yield directory
        yield from directory.rglob("*")
