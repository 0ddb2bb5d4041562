"""Fork real guests in QEMU from a template's memory, wherever it is held, in every way."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentd import native
from agentd.errors import ConfigError, ErrorCode, InvariantError
from agentd.store.memfd import create_memfd, seal_memfd
from agentd.store.read_ahead import data_extents, read_ahead, read_cached_share, sample_of
from agentd.units import MIB
from agentd.vmm.cgroup import CgroupTree
from bench.bare_fork import TRIVIAL_REQUEST, BareTemplate, Machine

ANSWER: Final = "2\n"
WAYS: Final = (
    *("mapped-warm", "mapped-cold"),
    *("load-warm", "load-plain", "load-ahead"),
    "loaded",
)
_STALLED: Final = re.compile(r"^some .*total=(\d+)$", re.MULTILINE)


# -- what a fork waits for ------------------------------------------------------------------------


class Group:
    """A control group of one fork; `close` removes it once the fork has ended."""

    def __init__(self) -> None:
        self._tree = CgroupTree.find("bench")
        self._name = f"cold-{os.getpid()}"
        self._fd = self._tree.create(self._name)
        if self._fd < 0:
            raise ConfigError(
                ErrorCode.PERMISSION_DENIED,
                "making a control group for a fork: version 2 is not there or may not be written",
                hint="run as root on a host with cgroup2",
            )

    def _open(self, name: str, flags: int) -> int:
        try:
            return os.open(name, flags, dir_fd=self._fd)
        except FileNotFoundError as exc:
            raise ConfigError(
                ErrorCode.CONFIG_INVALID,
                f"opening {name} of a control group: the kernel has none",
                hint="boot with psi=1",
            ) from exc

    def take_in(self, pid: int) -> None:
        """Move a process into it; it starts threads only later."""
        with open(self._open("cgroup.procs", os.O_WRONLY), "w") as procs:
            procs.write(str(pid))

    def stalled_ms(self) -> float:
        """How long one of its threads or more has waited for a disk, since it was made."""
        with open(self._open("io.pressure", os.O_RDONLY)) as pressure:
            found = _STALLED.search(pressure.read())
        if found is None:
            raise InvariantError("io.pressure has no line of what some wait for")
        return int(found[1]) / 1e3

    def close(self) -> None:
        """Remove it. Nothing may run in it any more."""
        os.close(self._fd)
        self._tree.remove(self._name)


class MappedTemplate(BareTemplate):
    """A frozen guest that can be forked from other holders of the same memory."""

    group: Group | None = None

    @contextmanager
    def held_by(self, memory_fd: int, group: Group) -> Iterator[None]:
        """Fork from this file, into this group, while the block runs. Both stay the caller's."""
        kept, self._memory, self.group = self._memory, memory_fd, group
        try:
            yield
        finally:
            self._memory, self.group = kept, None

    @property
    def memory_fd(self) -> int:
        """Its own memory, in a memfd. Borrowed."""
        return self._memory

    @property
    def memory_size(self) -> int:
        """In bytes."""
        return os.fstat(self._memory).st_size

    def _start(self, *args: Any, **kwargs: Any) -> Machine:
        machine = super()._start(*args, **kwargs)
        if self.group is not None:
            self.group.take_in(machine.process.pid)
        return machine


# -- the file -------------------------------------------------------------------------------------


@contextmanager
def memory_file(template: MappedTemplate, directory: Path) -> Iterator[int]:
    """The template's memory in a file on a disk."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as file:
        native.copy_memory(template.memory_fd, file.fileno(), template.memory_size)
        make_cold(file.fileno())
        if read_cached_share(file.fileno(), sample_of(data_extents(file.fileno()))) > 0.1:
            raise ConfigError(
                ErrorCode.CONFIG_INVALID,
                f"dropping a file in {directory} from memory: it stayed there",
                hint="it must be on a disk, not on tmpfs",
            )
        yield file.fileno()


def make_cold(fd: int) -> None:
    """Put a file on disk, and only there."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def make_warm(fd: int) -> None:
    """Read all of a file."""
    at = 0
    while part := os.pread(fd, MIB, at):
        at += len(part)


# -- forks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fork:
    """One fork, from its order to the guest's answer. prepared_ms: of it, before the monitor.
    stalled_ms: for which it stood still for a disk.
    """

    total_ms: float
    stalled_ms: float
    prepared_ms: float


Forks = dict[str, list[Fork]]
"""Every sample by way, in the order of the rounds."""


class Forker:
    """Starts forks of one file in every way."""

    def __init__(self, template: MappedTemplate, file_fd: int) -> None:
        self._template = template
        self._file_fd = file_fd

    def take(self, way: str) -> Fork:
        """One fork; what came before it leaves nothing in the page cache, or all of it."""
        (make_warm if way.endswith("-warm") else make_cold)(self._file_fd)
        with ExitStack() as stack:
            group = Group()
            stack.callback(group.close)
            begin = time.perf_counter()
            memory_fd = self._prepare(way, stack)
            prepared = time.perf_counter()
            with self._template.held_by(memory_fd, group):
                machine, sample = self._template.fork(TRIVIAL_REQUEST)
            done = time.perf_counter()
            stack.callback(machine.kill)
            stalled_ms = group.stalled_ms()
        if sample.answer != ANSWER:
            raise InvariantError(f"a fork answered {sample.answer!r}, not {ANSWER!r}")
        return Fork((done - begin) * 1e3, stalled_ms, (prepared - begin) * 1e3)

    def _prepare(self, way: str, stack: ExitStack) -> int:
        if way.startswith("mapped-"):
            return self._file_fd
        if way == "loaded":
            return self._template.memory_fd
        memfd = create_memfd("bench")
        stack.callback(os.close, memfd)
        with read_ahead(self._file_fd) if way == "load-ahead" else nullcontext():
            native.copy_memory(self._file_fd, memfd, self._template.memory_size)
        seal_memfd(memfd)
        return memfd


def measure(image: Path, directory: Path, rounds: int, say: Callable[[str], None]) -> Forks:
    """Fork in every way, `rounds` times."""
    say("booting a guest, freezing it")
    template = MappedTemplate(image, qemu="qemu-system-x86_64")
    found: Forks = {way: [] for way in WAYS}
    with template, memory_file(template, directory) as file_fd:
        forker = Forker(template, file_fd)
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            turn = number % len(WAYS)
            for way in (*WAYS[turn:], *WAYS[:turn]):
                found[way].append(forker.take(way))
    return found
