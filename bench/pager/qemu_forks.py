"""Fork real guests in QEMU from a template's memory, wherever it is held, in every way."""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentd import native
from agentd.errors import ConfigError, ErrorCode, InvariantError
from agentd.store.memfd import create_memfd, seal_memfd
from agentd.store.read_ahead import resident_share, touched_by, warm
from agentd.store.read_ahead_plan import RECORDS, agreed_mask, runs_of
from agentd.units import MIB, PAGE_BYTES
from agentd.vmm.cgroup import CgroupTree
from agentd.wire.read_ahead import FORMAT_VERSION, PageRun, ReadAhead
from bench.bare_fork import TRIVIAL_REQUEST, BareTemplate, Machine
from bench.pager.programs import BUILD

ANSWER: Final = "2\n"
WAYS: Final = ("warm", "plain", "ahead", "load")
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


# -- the file, what is known of it ----------------------------------------------------------------


@contextmanager
def memory_file(template: MappedTemplate) -> Iterator[int]:
    """The template's memory in a file on a disk."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=BUILD) as file:
        native.copy_memory(template.memory_fd, file.fileno(), template.memory_size)
        make_cold(file.fileno())
        if resident_share(file.fileno(), [PageRun(0, template.memory_size // PAGE_BYTES)]) > 0.1:
            raise ConfigError(
                ErrorCode.CONFIG_INVALID,
                f"dropping a file in {BUILD} from memory: it stayed there",
                hint="the checkout must be on a disk, not on tmpfs",
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


@dataclass(frozen=True)
class Learned:
    """What some forks touched. recall, precision: of what the others say, one left out; means."""

    read_ahead: ReadAhead
    recall: float
    precision: float


def learn(template: MappedTemplate) -> Learned:
    """Record forks that answer one request, each."""
    records = []
    for _ in range(RECORDS):
        machine, _sample = template.fork(TRIVIAL_REQUEST)
        try:
            records.append(touched_by(machine.process.pid, template.memory_fd))
        finally:
            machine.kill()
    runs = runs_of(agreed_mask(records))
    read_ahead = ReadAhead(FORMAT_VERSION, "bench", template.memory_size, len(records), runs)
    fits = [fit(records[:at] + records[at + 1 :], one) for at, one in enumerate(records)]
    recall, precision = (statistics.fmean(values) for values in zip(*fits, strict=True))
    return Learned(read_ahead, recall, precision)


def fit(others: Sequence[bytes], record: bytes) -> tuple[float, float]:
    """Which share of a record the others foretell; which share of what they foretell is in it."""
    said = {page for run in runs_of(agreed_mask(others)) for page in range(run.first, run.end)}
    touched = {page for page, counts in enumerate(record) if counts}
    common = len(said & touched)
    return common / len(touched), common / len(said)


# -- forks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fork:
    """One fork, from its order to the guest's answer. prepared_ms: of it, before the monitor."""

    total_ms: float
    stalled_ms: float
    prepared_ms: float


@dataclass
class Found:
    """Every sample by way, in the order of the rounds."""

    learned: Learned
    forks: dict[str, list[Fork]] = field(default_factory=lambda: {way: [] for way in WAYS})


class Forks:
    """Starts forks of one file in every way."""

    def __init__(self, template: MappedTemplate, file_fd: int, learned: Learned) -> None:
        self._template = template
        self._file_fd = file_fd
        self._learned = learned

    def take(self, way: str) -> Fork:
        """One fork; what came before it leaves nothing in the page cache, or all of it."""
        (make_warm if way == "warm" else make_cold)(self._file_fd)
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
        if way == "load":
            return self._load(stack)
        if way == "ahead":
            thread = threading.Thread(target=self._read_ahead)
            thread.start()
            stack.callback(thread.join)
        return self._file_fd

    def _read_ahead(self) -> None:
        warm(self._file_fd, self._learned.read_ahead)

    def _load(self, stack: ExitStack) -> int:
        memfd = create_memfd("bench")
        stack.callback(os.close, memfd)
        native.copy_memory(self._file_fd, memfd, self._template.memory_size)
        seal_memfd(memfd)
        return memfd


def measure(image: Path, rounds: int, say: Callable[[str], None]) -> Found:
    """Fork in every way, `rounds` times."""
    say("booting a guest, freezing it")
    template = MappedTemplate(image, qemu="qemu-system-x86_64")
    with template, memory_file(template) as file_fd:
        found = Found(learn(template))
        forks = Forks(template, file_fd, found.learned)
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            turn = number % len(WAYS)
            for way in (*WAYS[turn:], *WAYS[:turn]):
                found.forks[way].append(forks.take(way))
    return found
