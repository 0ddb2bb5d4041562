"""Start machines in one of the ways there are, time them, end them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agentd.errors import InvariantError
from bench.pager.files import Image
from bench.pager.programs import Cache, Program, set_page_cache
from bench.pager.service import Service

_START_NS: Final = 5_000_000
# Pages that may be in memory of a file that counts as cold: what opening it reads.
COLD_PAGES: Final = 64


@dataclass(frozen=True)
class Way:
    """How a machine's memory gets there.

    kind: of the stand-in (vm.c). server: "" for none, "ours", or the mode of the raw one.
    """

    name: str
    kind: str
    image: Image
    server: str = ""
    working_set: Path | None = None
    data: Path | None = None  # the raw server's compact file
    record: Path | None = None
    cache: Cache = Cache.PIECES
    is_eager: bool = False

    @property
    def is_cold(self) -> bool:
        """Whether nothing of its files is in memory when the clock starts."""
        return self.cache is Cache.COLD


@dataclass(frozen=True)
class Clone:
    """What one machine took; nanoseconds from the clock's start. Memory in bytes.

    served: what our server said of it when it could resume; counters: at its end, or the raw
    server's last words.
    """

    at_ns: int
    listened_ns: int
    mapped_ns: int
    resumed_ns: int
    first_ns: int
    total_ns: int
    sum: int
    served: dict[str, Any] | None
    prepare_ns: int = 0
    sum_after: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)


class Stand:
    """Where machines are started: on a page server, with traces whose outcome is known."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._started = 0
        self._sums: dict[Path, tuple[int, int]] = {}
        self._caches: dict[Path, Cache] = {}

    def learn(self, image: Image, trace: Path) -> None:
        """Find out what any machine on the trace must see: by reading the whole image."""
        clone = self.run(Way("floor", "resident", image), trace)[0]
        self._sums[trace] = clone.sum, clone.sum_after

    def run(self, way: Way, trace: Path, count: int = 1) -> list[Clone]:
        """Start `count` machines at once, let them touch what the trace says, end them."""
        self._set_cache(way)
        with ExitStack() as stack:
            machines = [stack.enter_context(self.machine(way, trace)) for _ in range(count)]
            begun = start_together([one.vm for one in machines], prepares=not way.is_cold)
            clones = [one.finish(clone) for one, clone in zip(machines, begun, strict=True)]
        for clone in clones:
            self._check(way, trace, clone)
        return clones

    def _set_cache(self, way: Way) -> None:
        """Put the way's files into its state of the page cache; a cold one does not stay cold."""
        files = {file for file in (way.image.path, way.working_set, way.data) if file is not None}
        stale = [file for file in files if way.is_cold or self._caches.get(file) is not way.cache]
        if not stale:
            return
        if way.is_cold:
            self._let_go()
        resident = set_page_cache(way.cache, *stale)
        if way.is_cold and max(resident) > COLD_PAGES:
            raise InvariantError(f"{resident} pages of {stale} are in memory after a drop")
        self._caches.update(dict.fromkeys(stale, way.cache))

    def _let_go(self) -> None:
        """What the page server maps cannot be dropped, and it keeps an image for a while."""
        self.service.kill()
        self.service.hello()

    def _check(self, way: Way, trace: Path, clone: Clone) -> None:
        """Every machine must have seen the same memory as the one that read the whole image."""
        seen = clone.sum, clone.sum_after
        if way.kind != "anonymous" and seen != self._sums.get(trace, seen):
            raise InvariantError(f"{way.name!r} saw other memory than is in {way.image.path!r}")

    @contextmanager
    def machine(self, way: Way, trace: Path, latencies: Path | None = None) -> Iterator[Machine]:
        """A machine that has not begun. Ends it."""
        self._started += 1
        name = f"{way.server or way.kind}-{self._started}"
        path = self.service.directory / f"{name}.sock"
        arguments = [way.kind, "--image", str(way.image.path), "--trace", str(trace)]
        arguments += ["--latencies", str(latencies)] if latencies else []
        arguments += ["--eager"] if way.is_eager else []
        fds = []
        if way.kind == "memfd":
            arguments += ["--memfd", str(way.image.memfd)]
            fds = [way.image.memfd]
        with ExitStack() as stack:
            server = None
            if way.server == "ours":
                stack.callback(self._forget, name)
                arguments += self._control(way, name, path)
            elif way.server:
                stack.callback(path.unlink, missing_ok=True)
                server = stack.enter_context(_raw(way, path, trace))
            arguments += ["--socket", str(path)] if way.server else []
            vm = stack.enter_context(Program("vm", *arguments, fds=fds))
            yield Machine(name, vm, self.service if way.server == "ours" else None, server)

    def _control(self, way: Way, name: str, path: Path) -> list[str]:
        order = {
            "op": "listen",
            "vm": name,
            "socket": str(path),
            "protocol": "memfd" if way.kind == "memfd" else "firecracker",
            "image": "" if way.kind == "memfd" else str(way.image.path),
            "digest": way.image.digest,
            "working_set": str(way.working_set or ""),
            "record": str(way.record or ""),
            "uid": os.getuid(),
        }
        wait = {"op": "wait", "vm": name, "timeout_s": 30}
        words = ["--control", str(self.service.control), "--listen", json.dumps(order)]
        return [*words, "--wait", json.dumps(wait)]

    def _forget(self, name: str) -> None:
        # Of a page server that is gone the caller knows already.
        with suppress(OSError):
            self.service.call("forget", vm=name)


@dataclass(frozen=True)
class Machine:
    """A stand-in that has not begun; who serves it."""

    name: str
    vm: Program
    service: Service | None
    raw: Program | None

    def finish(self, clone: Clone) -> Clone:
        """Read what is known of it at its end, end it. Returns: the clone with that."""
        memory, sum_after = self.vm.ask("memory"), self.vm.ask("digest")["sum"]
        counters = self.service.machine(self.name) if self.service else {}
        self.vm.stop()
        if self.raw is not None:
            counters = self.raw.read()
        return replace(clone, memory=memory, sum_after=sum_after, counters=counters)


def _raw(way: Way, path: Path, trace: Path) -> Program:
    image = str(way.image.path)
    fds: Sequence[int] = ()
    if way.kind == "memfd":
        image, fds = f"/proc/self/fd/{way.image.memfd}", [way.image.memfd]
    arguments = [way.server, "--socket", str(path), "--image", image, "--trace", str(trace)]
    arguments += ["--data", str(way.data)] if way.data else []
    arguments += ["--cold"] if way.is_cold else []
    return Program("raw_pager", *arguments, fds=fds)


def start_together(machines: Sequence[Program], *, prepares: bool = True) -> list[Clone]:
    """Start their clocks at the same moment.

    The clock of one that does not prepare also runs while our server begins to listen for it,
    which may read files.
    """
    prepared = [int(one.ask("prepare")["prepare_ns"]) if prepares else 0 for one in machines]
    at_ns = time.monotonic_ns() + _START_NS
    for one in machines:
        one.write(f"go {at_ns}")
    return [
        Clone(prepare_ns=took, **one.read()) for one, took in zip(machines, prepared, strict=True)
    ]
