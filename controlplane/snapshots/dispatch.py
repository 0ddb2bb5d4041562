"""Decide which tasks and build Sandboxes are made, kept, taken away."""

from __future__ import annotations

from datetime import datetime

from controlplane.api.core import Sandbox
from controlplane.api.manifest import Artifact
from controlplane.api.types import ArtifactPhase, SandboxSnapshotTask, TaskOperation
from controlplane.snapshots.content import make_build_sandbox, make_task
from controlplane.snapshots.draft import Draft, artifacts_of
from controlplane.snapshots.orders import Orders, name_of_task
from controlplane.snapshots.source import Source
from controlplane.snapshots.steps import (
    Count,
    CreateBuildSandbox,
    CreateTask,
    DeleteSandbox,
    DeleteTask,
    Metric,
    Step,
)


def order_builds(draft: Draft, source: Source | None, orders: Orders) -> None:
    """Make what the manifest names and is not there; keep what is under way; end what is done.

    source: None if nothing may be built now.
    """
    for one in draft.serving_sets:
        can_build = source is not None and draft.can_build(one)
        for artifact in artifacts_of(one):
            match artifact.phase:
                case ArtifactPhase.CREATING:
                    _order_build(draft, source if can_build else None, orders, artifact)
                case ArtifactPhase.UNAVAILABLE:
                    _order_inspection(draft, orders, artifact)
                case _:
                    _end_build(draft, orders, artifact)


def cancel_left_over(draft: Draft, orders: Orders) -> None:
    """What no artifact wants: superseded keys and attempts, impostors. Tasks go first."""
    tasks, sandboxes = orders.left_over()
    cancels: list[Step] = [DeleteTask(one.metadata.name, one.metadata.uid) for one in tasks]
    cancels += [DeleteSandbox(one.metadata.name, one.metadata.uid) for one in sandboxes]
    most = draft.seen.policy.orders_per_plan
    if len(cancels) > most:
        draft.wake_in(draft.seen.policy.again_s)
    draft.cancels += cancels[:most]


def _order_build(draft: Draft, source: Source | None, orders: Orders, artifact: Artifact) -> None:
    sandbox, task = orders.sandbox(artifact), orders.task(artifact, TaskOperation.CREATE)
    is_free = sandbox is not None
    name = orders.name_of_sandbox(artifact)
    if sandbox is not None:
        orders.release_sandbox(sandbox)
    elif _may_create(draft, source, orders, artifact, name):
        assert source is not None
        policy = draft.seen.policy
        snapshot = draft.seen.snapshot
        body = make_build_sandbox(snapshot, artifact, source, policy, name, draft.now)
        draft.creations.append(CreateBuildSandbox(body))
        is_free = True
    if task is not None:
        orders.release_task(task)
    elif is_free and not orders.is_name_taken(name_of_task(artifact, TaskOperation.CREATE)):
        policy, create = draft.seen.policy, TaskOperation.CREATE
        task = make_task(draft.seen.snapshot, artifact, create, name, policy)
        draft.creations += [
            CreateTask(task),
            Count(Metric.BUILD_TASKS, (ArtifactPhase.CREATING.value,)),
        ]


def _may_create(
    draft: Draft, source: Source | None, orders: Orders, artifact: Artifact, name: str
) -> bool:
    if source is None or artifact.node_name not in source.target_names:
        return False
    if orders.is_name_taken(name):  # an impostor, or its predecessor is on its way out: wait
        return False
    if len(draft.creations) >= draft.seen.policy.orders_per_plan:
        draft.wake_in(draft.seen.policy.again_s)
        return False
    return True


def _order_inspection(draft: Draft, orders: Orders, artifact: Artifact) -> None:
    """Ask a node that is back whether the artifact is. An answer from before an outage is void."""
    if (artifact.snapshot_key, artifact.node_name) not in draft.inspections:
        return
    task = orders.task(artifact, TaskOperation.INSPECT)
    if task is not None:
        orders.release_task(task)
    elif not orders.is_name_taken(name_of_task(artifact, TaskOperation.INSPECT)):
        name = orders.name_of_sandbox(artifact)
        policy, inspect = draft.seen.policy, TaskOperation.INSPECT
        made = make_task(draft.seen.snapshot, artifact, inspect, name, policy)
        draft.creations.append(CreateTask(made))


def _end_build(draft: Draft, orders: Orders, artifact: Artifact) -> None:
    """A finished task stays for a while, its build Sandbox does not."""
    if not orders.is_busy(artifact.node_name):
        return
    sandbox = orders.sandbox(artifact)
    if sandbox is not None:
        orders.release_sandbox(sandbox)
        draft.cleanups.append(DeleteSandbox(sandbox.metadata.name, sandbox.metadata.uid))
    for operation in (TaskOperation.CREATE, TaskOperation.INSPECT):
        task = orders.task(artifact, operation)
        if task is not None and not task.metadata.is_terminating:
            orders.release_task(task)
            _end_task(draft, task, sandbox)


def _end_task(draft: Draft, task: SandboxSnapshotTask, sandbox: Sandbox | None) -> None:
    if sandbox is None and draft.is_due(
        _finished_at(task, draft.now), draft.seen.policy.retention_s
    ):
        draft.cleanups.append(DeleteTask(task.metadata.name, task.metadata.uid))


def _finished_at(task: SandboxSnapshotTask, now: datetime) -> datetime:
    status = task.status
    return (status.observed_at if status else None) or task.metadata.creation_timestamp or now
