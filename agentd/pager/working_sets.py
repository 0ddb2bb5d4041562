"""Have a template's first forks recorded, their records merged into its working set.

The files lie in `pages/` in the template's directory, so they go with it, and carry the digest of
its memory in their names: those of other memory are dropped when they are met. A fork that cannot
be recorded, or a merge that fails, costs speed and nothing else, so it is told and never raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentd.errors import SnapStartError
from agentd.pager.client import Pager
from agentd.pager.merging import Merge, run_merge
from agentd.pager.process import Step
from agentd.wire.manifest import MemoryImage
from agentd.wire.pager import WorkingSetReport

DIRECTORY: Final = "pages"
_SET: Final = ".set"
_RECORD: Final = ".record"


def image_digest(memory: MemoryImage) -> str:
    """What recordings of a memory image are tied to: SHA-256, hex, of all that tells it apart."""
    parts = [str(memory.size_bytes), str(memory.chunk_bytes), *memory.chunk_hashes]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Source:
    """What forks are started from. directory: the template's. digest: of its memory, hex."""

    directory: Path
    image: Path
    digest: str

    @property
    def pages(self) -> Path:
        """Where its files are."""
        return self.directory / DIRECTORY

    @property
    def working_set(self) -> Path:
        """Its working set, if it has one."""
        return self.pages / f"{self.digest}{_SET}"

    def record(self, vm_id: str) -> Path:
        """The record of one fork."""
        return self.pages / f"{self.digest}.{vm_id}{_RECORD}"


@dataclass(frozen=True)
class ForkPages:
    """Two members of an order to the page server: paths, empty for none."""

    working_set: str = ""
    record: str = ""


# -- decisions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What lies in a directory. recorded: machines. stale: names of other memory, or half-made."""

    has_set: bool
    recorded: frozenset[str]
    stale: frozenset[str]


def sort_files(names: Iterable[str], digest: str, *, is_quiet: bool) -> Found:
    """What each file is. is_quiet: nobody writes here, so what is half-made stays so."""
    has_set, recorded, stale = False, set(), set()
    for name in names:
        rest = name.removeprefix(f"{digest}.")
        if name == f"{digest}{_SET}":
            has_set = True
        elif rest != name and rest.endswith(_RECORD):
            recorded.add(rest.removesuffix(_RECORD))
        elif is_quiet or not name.startswith(digest):
            stale.add(name)
    return Found(has_set, frozenset(recorded), frozenset(stale))


def is_to_be_recorded(found: Found, claimed: Collection[str], wanted: int) -> bool:
    """Whether one more fork is recorded. claimed: machines whose record is still to come."""
    return not found.has_set and len(found.recorded.union(claimed)) < wanted


def is_to_be_merged(found: Found, wanted: int) -> bool:
    """Whether the records are enough."""
    return 0 < wanted <= len(found.recorded) and not found.has_set


# -- acts -----------------------------------------------------------------------------------------


@dataclass
class _State:
    """What is under way for one source."""

    claimed: set[str] = field(default_factory=set)
    merging: asyncio.Task[None] | None = None
    has_failed: bool = False

    @property
    def is_quiet(self) -> bool:
        return not self.claimed and self.merging is None


class WorkingSets:
    """The working sets of this node's templates. Use in one event loop, `close` at the end.

    Args: binary: snap-pager. budget_pages: of one set. record_forks: records of which one is made;
    0 makes none.
    """

    def __init__(self, binary: Path, budget_pages: int, record_forks: int, step: Step) -> None:
        self._binary = binary
        self._budget_pages = budget_pages
        self._record_forks = record_forks
        self._step = step
        self._states: dict[Source, _State] = {}

    def plan(self, source: Source, vm_id: str) -> ForkPages:
        """What the order for a fork says. Whoever is to be recorded needs `end` or `give_up`."""
        state = self._states.setdefault(source, _State())
        try:
            return self._plan(source, state, vm_id)
        except OSError as exc:
            state.has_failed = True
            self._step("working_set.failed", source=str(source.pages), error=str(exc))
            return ForkPages()

    def _plan(self, source: Source, state: _State, vm_id: str) -> ForkPages:
        found = self._look(source, state)
        if found.has_set:
            return ForkPages(working_set=str(source.working_set))
        self._merge_if_due(source, state, found)
        if state.has_failed or not is_to_be_recorded(found, state.claimed, self._record_forks):
            return ForkPages()
        source.pages.mkdir(mode=0o700, exist_ok=True)
        state.claimed.add(vm_id)
        return ForkPages(record=str(source.record(vm_id)))

    async def end(self, pager: Pager, source: Source, vm_id: str, *, deadline_s: float) -> None:
        """Have the record of a fork written; the last one needed begins a merge.

        Does nothing for a fork that is not recorded. Cancellation: gives the record up.
        """
        state = self._states.get(source)
        if state is None or vm_id not in state.claimed:
            return
        try:
            recording = await pager.end_recording(vm_id, deadline_s=deadline_s)
            self._step("working_set.recorded", vm=vm_id, touches=recording.touches)
        except SnapStartError as exc:
            self._step("working_set.lost", vm=vm_id, error=str(exc))
        finally:
            self.give_up(source, vm_id)
        with contextlib.suppress(OSError):
            self._merge_if_due(source, state, self._look(source, state))

    def give_up(self, source: Source, vm_id: str) -> None:
        """A fork that was to be recorded has ended: another may be. Idempotent."""
        state = self._states.get(source)
        if state is not None:
            state.claimed.discard(vm_id)

    async def close(self) -> None:
        """End merges; what is not merged yet is when the next daemon plans a fork."""
        tasks = [state.merging for state in self._states.values() if state.merging is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self, source: Source, state: _State) -> Found:
        names = os.listdir(source.pages) if source.pages.is_dir() else ()
        found = sort_files(names, source.digest, is_quiet=state.is_quiet)
        for name in found.stale:
            (source.pages / name).unlink(missing_ok=True)
        return found

    def _merge_if_due(self, source: Source, state: _State, found: Found) -> None:
        is_due = is_to_be_merged(found, self._record_forks)
        if is_due and state.merging is None and not state.has_failed:
            name = f"working-set-{source.directory.name}"
            state.merging = asyncio.create_task(self._merge(source, state, found), name=name)

    async def _merge(self, source: Source, state: _State, found: Found) -> None:
        records = sorted(source.record(vm_id) for vm_id in found.recorded)
        merge = Merge(source.image, source.digest, records, source.working_set, self._budget_pages)
        try:
            self._tell(source, len(records), await run_merge(merge, self._binary))
        except (SnapStartError, OSError) as exc:
            # The records that could not be merged now will not be later: the next daemon records
            # anew, this one does not try without end.
            state.has_failed = True
            self._step("working_set.failed", source=str(source.pages), error=str(exc))
        finally:
            state.merging = None
        for path in records:
            with contextlib.suppress(OSError):
                path.unlink()

    def _tell(self, source: Source, records: int, made: WorkingSetReport) -> None:
        shares = {"precision": made.precision, "recall": made.recall}
        self._step(
            "working_set.made",
            source=str(source.pages),
            records=records,
            pages=made.pages,
            runs=made.runs,
            dropped_pages=made.dropped_pages,
            **{name: share for name, share in shares.items() if share is not None},
        )
