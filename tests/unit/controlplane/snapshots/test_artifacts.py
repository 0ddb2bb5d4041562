"""Each transition of one node's artifact."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from controlplane.api.core import Node
from controlplane.api.manifest import Artifact, Retry
from controlplane.api.meta import ObjectMeta, TypedReference
from controlplane.api.types import (
    ArtifactPhase,
    SandboxSnapshotTask,
    SandboxSnapshotTaskSpec,
    SandboxSnapshotTaskStatus,
    SnapshotMode,
)
from controlplane.snapshots.artifacts import Site, advance_artifact, is_exhausted, is_terminal
from controlplane.snapshots.health import Health
from controlplane.snapshots.policy import Policy
from tests.fakes.snapshot_world import START

CREATING, READY = ArtifactPhase.CREATING, ArtifactPhase.READY
FAILED, UNAVAILABLE = ArtifactPhase.FAILED, ArtifactPhase.UNAVAILABLE
POLICY = Policy()
NODE = Node(metadata=ObjectMeta(name="node-a", uid="u1"))
OTHER = Node(metadata=ObjectMeta(name="node-a", uid="u2"))
GOOD = Health()
DOWN = Health("the node is not ready")
GRACE = Health(until=START + timedelta(seconds=30))
LATE = START + timedelta(seconds=901)


def _artifact(phase: ArtifactPhase, **changes: Any) -> Artifact:
    known: dict[str, Any] = {
        "provider_name": "p",
        "node_name": "node-a",
        "node_uid": "u1",
        "snapshot_key": "k",
        "snapshot_hash": "h",
        "started_at": START,
        "phase": phase,
        "attempt": 1,
    }
    return Artifact(**{**known, **changes})


def _task(phase: ArtifactPhase | None, message: str = "") -> SandboxSnapshotTask:
    reference = TypedReference()
    spec = SandboxSnapshotTaskSpec(
        snapshot_ref=reference,
        snapshot_uid="s",
        snapshot_mode=SnapshotMode.FORK,
        target_sandbox_ref=reference,
        target_node_name="node-a",
        provider_name="p",
        snapshot_key="k",
        snapshot_hash="h",
    )
    status = SandboxSnapshotTaskStatus(phase=phase, message=message)
    return SandboxSnapshotTask(metadata=ObjectMeta(name="t"), spec=spec, status=status)


SITE = Site(NODE, GOOD, is_target=True, can_build=True, has_orders=True, has_build=True)
LOST = replace(SITE, node=None, health=DOWN, is_target=False)
FAILURE = Retry(failure_count=1, last_failed_at=START, next_retry_at=START)
SPENT = Retry(failure_count=3, last_failed_at=START, next_retry_at=START)
FINAL = Retry(failure_count=1, last_failed_at=START)


@dataclass(frozen=True)
class Row:
    """after: None: the record is dropped."""

    name: str
    before: Artifact
    site: Site
    after: ArtifactPhase | None
    attempt: int = 1
    at: datetime = field(default=START)


ROWS = [
    Row("creating-waits", _artifact(CREATING), SITE, CREATING),
    Row("creating-reported", _artifact(CREATING), replace(SITE, build=_task(CREATING)), CREATING),
    Row("creating-to-ready", _artifact(CREATING), replace(SITE, build=_task(READY)), READY),
    Row("creating-to-failed", _artifact(CREATING), replace(SITE, build=_task(FAILED)), FAILED),
    Row(
        "creating-task-unavailable",
        _artifact(CREATING),
        replace(SITE, build=_task(UNAVAILABLE)),
        FAILED,
    ),
    Row("creating-deadline", _artifact(CREATING), SITE, FAILED, at=LATE),
    Row(
        "creating-ready-beats-deadline",
        _artifact(CREATING),
        replace(SITE, build=_task(READY)),
        READY,
        at=LATE,
    ),
    Row("creating-pod-ended", _artifact(CREATING), replace(SITE, ended="Pod failed"), FAILED),
    Row(
        "creating-ready-beats-pod-end",
        _artifact(CREATING),
        replace(SITE, ended="Pod ended", build=_task(READY)),
        READY,
    ),
    Row(
        "creating-source-changed",
        _artifact(CREATING),
        replace(SITE, can_build=False, is_target=False, has_build=False),
        FAILED,
    ),
    Row("creating-node-in-grace", _artifact(CREATING), replace(SITE, health=GRACE), CREATING),
    Row(
        "creating-ready-on-lost-node",
        _artifact(CREATING),
        replace(SITE, build=_task(READY), health=DOWN),
        UNAVAILABLE,
        attempt=2,
    ),
    Row(
        "failed-waits",
        _artifact(FAILED, retry=Retry(failure_count=1, next_retry_at=LATE)),
        SITE,
        FAILED,
    ),
    Row("failed-to-creating", _artifact(FAILED, retry=FAILURE), SITE, CREATING, attempt=2),
    Row("failed-reopened", _artifact(FAILED, retry=SPENT), SITE, CREATING, attempt=2),
    Row("failed-for-good", _artifact(FAILED, retry=FINAL), SITE, FAILED, at=LATE),
    Row(
        "failed-no-target",
        _artifact(FAILED, retry=FAILURE),
        replace(SITE, is_target=False),
        FAILED,
    ),
    Row("ready-stays", _artifact(READY), SITE, READY),
    Row("ready-late-task", _artifact(READY), replace(SITE, build=_task(FAILED)), READY),
    Row("ready-older-task", _artifact(READY), replace(SITE, build=_task(CREATING)), READY),
    Row("ready-in-grace", _artifact(READY), replace(SITE, health=GRACE), READY),
    Row("ready-to-unavailable", _artifact(READY), replace(SITE, health=DOWN), UNAVAILABLE, 2),
    Row("unavailable-stays", _artifact(UNAVAILABLE), replace(SITE, health=DOWN), UNAVAILABLE),
    Row("unavailable-asks", _artifact(UNAVAILABLE), SITE, UNAVAILABLE),
    Row("unavailable-ready", _artifact(UNAVAILABLE), replace(SITE, inspection=_task(READY)), READY),
    Row(
        "unavailable-in-grace-not-ready",
        _artifact(UNAVAILABLE),
        replace(SITE, inspection=_task(READY), health=GRACE),
        UNAVAILABLE,
    ),
    Row(
        "unavailable-missing",
        _artifact(UNAVAILABLE),
        replace(SITE, inspection=_task(UNAVAILABLE)),
        CREATING,
        attempt=2,
    ),
    Row(
        "unavailable-unsure",
        _artifact(UNAVAILABLE),
        replace(SITE, inspection=_task(FAILED)),
        CREATING,
        attempt=2,
    ),
    Row(
        "unavailable-missing-stale",
        _artifact(UNAVAILABLE),
        replace(SITE, inspection=_task(FAILED), is_target=False, can_build=False),
        FAILED,
    ),
    Row("removed-with-orders", _artifact(READY), LOST, UNAVAILABLE, attempt=2),
    Row("removed", _artifact(READY), replace(LOST, has_orders=False), None),
    Row("removed-creating", _artifact(CREATING), replace(LOST, has_orders=False), None),
    Row("rejoined", _artifact(READY), replace(SITE, node=OTHER), CREATING, attempt=2),
    Row(
        "rejoined-no-target",
        _artifact(READY),
        replace(SITE, node=OTHER, is_target=False, has_orders=False),
        None,
    ),
    Row(
        "rejoined-no-target-with-orders",
        _artifact(READY),
        replace(SITE, node=OTHER, is_target=False),
        UNAVAILABLE,
        attempt=2,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_an_artifact_goes_on_as_the_table_says(row: Row) -> None:
    """Defects 14, 31, 32, 35: every phase has its way on."""
    after = advance_artifact(row.before, row.site, POLICY, row.at)
    if row.after is None:
        assert after is None
        return
    assert after is not None
    assert (after.phase, after.attempt) == (row.after, row.attempt)
    assert after.snapshot_key == row.before.snapshot_key


def test_an_artifact_that_stays_is_the_same_object() -> None:
    """So that nothing is written for it."""
    known = _artifact(READY)
    assert advance_artifact(known, SITE, POLICY, LATE) is known


def test_created_at_is_the_first_time_it_was_ready() -> None:
    ready = advance_artifact(_artifact(CREATING), replace(SITE, build=_task(READY)), POLICY, LATE)
    assert ready is not None
    assert ready.created_at == LATE
    lost = advance_artifact(ready, replace(SITE, health=DOWN), POLICY, LATE)
    assert lost is not None
    back = advance_artifact(lost, replace(SITE, inspection=_task(READY)), POLICY, START)
    assert back is not None
    assert (back.phase, back.created_at) == (READY, LATE)


def test_delays_between_attempts_double_and_then_end_for_half_an_hour() -> None:
    artifact: Artifact = _artifact(CREATING)
    delays = []
    for _ in range(3):
        failed = advance_artifact(artifact, replace(SITE, build=_task(FAILED)), POLICY, START)
        assert failed is not None
        assert failed.retry is not None
        assert failed.retry.next_retry_at is not None
        delays.append((failed.retry.next_retry_at - START).total_seconds())
        again = advance_artifact(failed, SITE, POLICY, failed.retry.next_retry_at)
        assert again is not None
        artifact = msgspec.structs.replace(again, started_at=START)
    assert delays == [10, 20, 1800]
    assert artifact.retry is not None
    assert artifact.retry.failure_count == 0


def test_a_message_is_bounded() -> None:
    """Defect 55."""
    task = _task(FAILED, "x" * 10_000)
    failed = advance_artifact(_artifact(CREATING), replace(SITE, build=task), POLICY, START)
    assert failed is not None
    assert len(failed.message) <= 300


@pytest.mark.parametrize(
    ("artifact", "exhausted", "terminal"),
    [
        (_artifact(CREATING), False, False),
        (_artifact(READY), False, True),
        (_artifact(UNAVAILABLE), False, True),
        (_artifact(FAILED, retry=FAILURE), False, False),
        (_artifact(FAILED, retry=SPENT), True, True),
        (_artifact(FAILED, retry=FINAL), True, True),
    ],
    ids=["creating", "ready", "unavailable", "failed-once", "failed-spent", "failed-final"],
)
def test_an_artifact_is_done_when_nothing_more_is_tried(
    artifact: Artifact, exhausted: bool, terminal: bool
) -> None:
    assert is_exhausted(artifact, POLICY) is exhausted
    assert is_terminal(artifact, POLICY) is terminal
