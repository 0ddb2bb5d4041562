"""Decide what a starting daemon does with what its predecessor left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from agentd.engine.journal_records import (
    JournalState,
    SessionFacts,
    TemplateBegun,
    VmEntry,
)
from agentd.vmm.vmm import VmRecord


@dataclass(frozen=True)
class AdoptSession:
    """Its machine runs: carry the session on."""

    vm_id: str
    record: VmRecord
    facts: SessionFacts


@dataclass(frozen=True)
class KillVm:
    """End a machine that nothing needs."""

    record: VmRecord
    why: str


@dataclass(frozen=True)
class ForgetVm:
    """Remove what is left of a machine that does not run. facts: of a session that was lost."""

    vm_id: str
    reason: str
    facts: SessionFacts | None = None


@dataclass(frozen=True)
class FailTemplate:
    """Its build died with the predecessor."""

    begun: TemplateBegun


Action = AdoptSession | KillVm | ForgetVm | FailTemplate


def plan_adoption(
    state: JournalState,
    found: Iterable[VmRecord],
    left_dirs: Collection[str],
    *,
    clock_s: float,
    boot_id: str,
) -> list[Action]:
    """What to do, in this order: adopt, kill, then forget; a kill comes before its directory goes.

    Args: state: as the predecessor left it. found: every machine of this installation on the host.
    left_dirs: names of run directories, each the id of a machine. clock_s: by
    CLOCK_MONOTONIC. boot_id: of the running kernel; pids of another boot mean nothing.
    """
    running = defaultdict(list)
    for record in found:
        running[record.vm_id].append(record)
    adopted: list[Action] = []
    kills: list[Action] = []
    forgotten: list[Action] = []
    for vm_id in sorted({*state.vms, *running, *left_dirs}):
        entry = state.vms.get(vm_id)
        heir = _heir(entry, running[vm_id], clock_s) if state.boot_id == boot_id else None
        if heir is not None:
            adopted.append(heir)
        kept = None if heir is None else heir.record
        why = _why(entry, clock_s)
        kills += [KillVm(record, why) for record in running[vm_id] if record != kept]
        if heir is None:
            reason = why if running[vm_id] else "vm_died_while_agentd_was_down"
            forgotten.append(ForgetVm(vm_id, reason, _lost(entry)))
    failed: list[Action] = [
        FailTemplate(template.begun)
        for template in state.templates.values()
        if template.failed is None
    ]
    return adopted + kills + forgotten + failed


def plan_sweep(known: Collection[str], found: Iterable[VmRecord]) -> list[KillVm]:
    """The machines to end on a second look.

    A predecessor that was killed between clone(2) and execve(2) leaves a process that looks like a
    machine only a moment later; whatever the present daemon started is in `known`.
    """
    return [KillVm(record, "stray") for record in found if record.vm_id not in known]


def _heir(
    entry: VmEntry | None, running: Collection[VmRecord], clock_s: float
) -> AdoptSession | None:
    if entry is None or entry.running is None or entry.ending is not None:
        return None
    facts = entry.running.session
    if facts is None or _is_over(facts, clock_s):
        return None
    record = VmRecord(
        entry.intended.vm_id,
        Path(entry.intended.run_dir),
        entry.running.pid,
        entry.running.create_time_ticks,
    )
    same = (record.pid, record.create_time_ticks)
    if all((other.pid, other.create_time_ticks) != same for other in running):
        return None
    return AdoptSession(record.vm_id, record, facts)


def _why(entry: VmEntry | None, clock_s: float) -> str:
    if entry is None:
        return "stray"
    if entry.ending is not None:
        return entry.ending.reason
    if entry.running is None:
        return "half_started"
    if entry.running.session is None:
        return "parked"
    return "expired" if _is_over(entry.running.session, clock_s) else "not_the_journaled_one"


def _is_over(facts: SessionFacts, clock_s: float) -> bool:
    """A program that did not write when it ends gives it its whole life anew."""
    return 0 < facts.ends_clock_s <= clock_s


def _lost(entry: VmEntry | None) -> SessionFacts | None:
    return None if entry is None or entry.running is None else entry.running.session
