"""Show SandboxSnapshots to people; judge how far a rebuild is."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from agentd.cli.tables import Table, age
from controlplane.api import names
from controlplane.api.types import (
    ConditionType,
    SandboxSnapshot,
    SandboxSnapshotStatus,
    SandboxSnapshotTask,
    SnapshotPhase,
)

_NUMERIC = frozenset({"AGE", "NODES"})


def list_table(snapshots: Sequence[SandboxSnapshot], now: datetime) -> Table:
    """One row each."""
    return Table(
        ("NAMESPACE", "NAME", "PHASE", "NODES", "SOURCE", "CLASS", "AGE", "MESSAGE"),
        [
            (
                one.metadata.namespace,
                one.metadata.name,
                status_of(one).phase.value,
                f"{status_of(one).ready_node_count}/{status_of(one).target_node_count}",
                one.spec.source_ref.name,
                one.spec.snapshot_class_name,
                ago(one.metadata.creation_timestamp, now),
                status_of(one).message,
            )
            for one in snapshots
        ],
        numeric=_NUMERIC,
        empty="no snapshots; make one with `snapctl snapshot create`",
    )


def detail_table(one: SandboxSnapshot, now: datetime) -> Table:
    """All there is to say about one."""
    status, policy = status_of(one), one.spec.fork_policy
    is_rebuilt = policy is None or policy.is_rebuilt_on_source_change
    rows = [
        ("snapshot", f"{one.metadata.namespace}/{one.metadata.name}"),
        ("source", f"{one.spec.source_ref.kind} {one.spec.source_ref.name}"),
        ("class", one.spec.snapshot_class_name),
        ("rebuild on change", "yes" if is_rebuilt else "no"),
        ("rebuild after", (policy and policy.rebuild_after) or "never"),
        ("phase", status.phase.value),
        ("nodes", _counts(status)),
        ("ready since", ago(status.ready_at, now)),
        ("message", status.message or "-"),
        *((f"condition {c.type}", _condition(c.status, c.reason)) for c in status.conditions),
    ]
    if one.metadata.annotation(names.FORCE_REBUILD):
        rows.append(("rebuild", "asked for, not begun"))
    if one.metadata.is_terminating:
        rows.append(("deletion", "waits for the nodes to remove their artifacts"))
    return Table(("MEMBER", "VALUE"), rows)


def task_table(tasks: Sequence[SandboxSnapshotTask], now: datetime) -> Table:
    """The orders that are out."""
    return Table(
        ("NODE", "OPERATION", "PHASE", "AGE", "MESSAGE"),
        [
            (
                one.spec.target_node_name,
                one.spec.operation.value,
                (one.status and one.status.phase and one.status.phase.value) or "-",
                ago(one.metadata.creation_timestamp, now),
                (one.status and one.status.message) or "",
            )
            for one in sorted(tasks, key=lambda task: task.spec.target_node_name)
        ],
        title="tasks",
        numeric=_NUMERIC,
    )


def status_of(one: SandboxSnapshot) -> SandboxSnapshotStatus:
    """Its status, an empty one before the controller has seen it."""
    return one.status or SandboxSnapshotStatus()


def ago(then: datetime | None, now: datetime) -> str:
    """How long ago, or a dash."""
    return age(then.isoformat(), now) if then else "-"


def _counts(status: SandboxSnapshotStatus) -> str:
    parts = {
        "ready": status.ready_node_count,
        "creating": status.creating_node_count,
        "failed": status.failed_node_count,
        "unavailable": status.unavailable_node_count,
    }
    told = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
    return f"{status.target_node_count} wanted: {told or 'none yet'}"


def _condition(status: str, reason: str) -> str:
    return f"{status} ({reason})" if reason else status


class RebuildState(enum.Enum):
    """How a rebuild stands."""

    ASKED = "waiting for the controller"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Rebuild:
    """What a rebuild began from. was_building: it has been seen at work."""

    ready_at: datetime | None
    was_building: bool = False


def judge_rebuild(one: SandboxSnapshot, rebuild: Rebuild) -> RebuildState:
    """How far a forced rebuild is: a new version has another time of becoming Ready."""
    status = status_of(one)
    if one.metadata.annotation(names.FORCE_REBUILD):
        return RebuildState.ASKED
    if status.phase is SnapshotPhase.FAILED:
        return RebuildState.FAILED
    is_new = status.ready_at is not None and status.ready_at != rebuild.ready_at
    if status.phase is SnapshotPhase.READY and is_new:
        return RebuildState.READY
    if status.phase is not SnapshotPhase.READY or _is_rebuilding(status):
        return RebuildState.BUILDING
    return RebuildState.FAILED if rebuild.was_building else RebuildState.ASKED


def _is_rebuilding(status: SandboxSnapshotStatus) -> bool:
    return any(c.type == ConditionType.REBUILDING and c.status == "True" for c in status.conditions)
