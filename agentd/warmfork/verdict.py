"""Judge whether a guest may become a template.

The guest's own word is never enough: whatever `safeToSnapshot` claims, its evidence is looked at,
and so is what the host knows by itself. A report that contradicts itself is refused as a lie.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from agentd.wire.guest import GuestProcess, GuestStatus

# The only services that leave no trace in a guest; everything else may have brought user state.
_HARMLESS_SERVICES: Final = frozenset({"status", "checkpoint"})
_DETAIL_MAX_CHARS: Final = 300
_REASONS_MAX: Final = 50


class Finding(enum.StrEnum):
    """What a guest is fit for."""

    CLEAN = "clean"
    NOT_YET = "not_yet"
    CONTAMINATED = "contaminated"


@dataclass(frozen=True)
class HostKnowledge:
    """What the host knows of a VM without asking it.

    opened: streams per service, over every channel there has been to the VM, from its boot on.
    has_network_device: the VM was given one.
    """

    opened: Mapping[str, int]
    has_network_device: bool


@dataclass(frozen=True)
class Verdict:
    """The finding, and everything that led to it, in words."""

    finding: Finding
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.finding.value}: {'; '.join(self.reasons)}" if self.reasons else self.finding


def judge_contamination(status: GuestStatus, host: HostKnowledge) -> Verdict:
    """Clean, not yet known to be clean, or contaminated, which no waiting mends.

    NOT_YET is a guest that does not claim to be safe, and has nothing against it.
    """
    evidence = (*_host_evidence(host), *_guest_evidence(status), *_contradictions(status))
    if evidence:
        return Verdict(Finding.CONTAMINATED, evidence[:_REASONS_MAX])
    if not status.safe_to_snapshot:
        state = status.details.interpreter_state[:_DETAIL_MAX_CHARS]
        return Verdict(Finding.NOT_YET, (f"not at its checkpoint, interpreter {state!r}",))
    return Verdict(Finding.CLEAN)


def _host_evidence(host: HostKnowledge) -> Iterator[str]:
    for service, count in host.opened.items():
        if count and service not in _HARMLESS_SERVICES:
            yield f"{count} stream(s) of service {service!r} have been opened to the VM"
    if host.has_network_device:
        yield "the VM has a network device"


def _guest_evidence(status: GuestStatus) -> Iterator[str]:
    if status.gate != "closed":
        yield f"the gate is {status.gate[:_DETAIL_MAX_CHARS]!r}, not closed"
    if status.user_state_loaded:
        yield "user state is loaded"
    if status.active_tasks:
        yield f"{status.active_tasks} task(s) are active"
    if not status.details.workspace_empty:
        yield "the workspace is not empty"
    for reason in status.reasons[:_REASONS_MAX]:
        yield f"{reason.kind[:_DETAIL_MAX_CHARS]}: {reason.detail[:_DETAIL_MAX_CHARS]}"
    if status.baseline_processes:
        yield from _process_evidence(status.baseline_processes, status.processes)


def _process_evidence(baseline: list[GuestProcess], processes: list[GuestProcess]) -> Iterator[str]:
    known = {process.pid: process for process in baseline}
    for process in processes:
        before = known.get(process.pid)
        label = f"pid {process.pid} {process.name[:_DETAIL_MAX_CHARS]!r}"
        if before is None:
            yield f"process {label} is not of the baseline"
        elif _program(process) != _program(before):
            yield f"process {label} was {before.name[:_DETAIL_MAX_CHARS]!r} at the baseline"
        elif process.threads > before.threads:
            yield f"process {label} has {process.threads} threads, {before.threads} at the baseline"


def _program(process: GuestProcess) -> tuple[int, str, str]:
    return (process.ppid, process.name, process.cmdline)


def _contradictions(status: GuestStatus) -> Iterator[str]:
    for what, processes in (
        ("process list", status.processes),
        ("baseline", status.baseline_processes),
    ):
        twice = [pid for pid, count in Counter(item.pid for item in processes).items() if count > 1]
        if twice:
            yield f"the guest's {what} names pid {twice[0]} twice"
    if not status.safe_to_snapshot:
        return
    if status.reasons:
        yield "the guest claims to be safe while it gives reasons against it"
    if not status.processes:
        yield "the guest claims to be safe while it lists no process, not even itself"
    if not status.baseline_processes:
        yield "the guest claims to be safe without a baseline"
    missing = {item.pid for item in status.baseline_processes} - {
        item.pid for item in status.processes
    }
    if missing:
        yield f"the guest claims to be safe while pid {min(missing)} of its baseline is gone"
    if status.details.interpreter_state != "idle":
        state = status.details.interpreter_state[:_DETAIL_MAX_CHARS]
        yield f"the guest claims to be safe while its interpreter is {state!r}"
