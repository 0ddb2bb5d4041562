"""Delete retired artifacts from nodes."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from controlplane.api.core import Node
from controlplane.api.manifest import Artifact, RetiredSet
from controlplane.api.types import ArtifactPhase, SandboxSnapshotTask, TaskOperation
from controlplane.snapshots.content import make_task
from controlplane.snapshots.draft import Draft
from controlplane.snapshots.nodes import node_state
from controlplane.snapshots.orders import Orders, name_of_task
from controlplane.snapshots.steps import Count, CreateTask, DeleteTask, Metric


def collect(draft: Draft, orders: Orders, *, grace_s: float) -> None:
    """Forget what is gone; order the deletion of what is due, one at a time on each node.

    A node that is away keeps its entry; one that was removed from the cluster takes it along.
    """
    taken = set(draft.seen.busy_nodes) | {
        task.spec.target_node_name
        for task in draft.seen.tasks
        if task.spec.operation is TaskOperation.DELETE
    }
    kept: list[RetiredSet] = []
    for retired in draft.manifest.retired_sets or ():
        is_due = draft.is_due(retired.retired_at or draft.now, grace_s)
        left = tuple(
            name
            for name in retired.node_names or ()
            if _is_left(draft, orders, retired, name, taken if is_due else None)
        )
        if left == retired.node_names:
            kept.append(retired)
        elif left:
            kept.append(replace(retired, node_names=left))
    draft.manifest = replace(draft.manifest, retired_sets=tuple(kept) or None)


def _is_left(
    draft: Draft,
    orders: Orders,
    retired: RetiredSet,
    name: str,
    taken: set[str] | None,
) -> bool:
    node = draft.seen.nodes.get(name)
    if node is None:
        draft.facts.append(Count(Metric.PHYSICAL_DELETES, ("node_removed",)))
        return False
    order = _order_of(retired, node)
    task = orders.task(order, TaskOperation.DELETE)
    if task is not None and _phase(task) is ArtifactPhase.READY:
        draft.facts.append(Count(Metric.PHYSICAL_DELETES, ("deleted",)))
        return False
    if taken is not None:
        _dispatch(draft, orders, order, task, taken)
    return True


def _dispatch(
    draft: Draft,
    orders: Orders,
    order: Artifact,
    task: SandboxSnapshotTask | None,
    taken: set[str],
) -> None:
    name = order.node_name
    if task is not None:
        orders.release_task(task)
        if not _is_to_be_asked_again(draft, task):
            return
        draft.facts.append(Count(Metric.PHYSICAL_DELETES, ("failed",)))
        draft.cancels.append(DeleteTask(task.metadata.name, task.metadata.uid))
        return
    if name in draft.seen.busy_nodes:
        draft.wake_in(draft.seen.policy.recheck_unready_s)
    if name in taken or not _can_answer(draft, name):
        return
    if orders.is_name_taken(name_of_task(order, TaskOperation.DELETE)):
        return
    taken.add(name)
    body = make_task(
        draft.seen.snapshot,
        order,
        TaskOperation.DELETE,
        orders.name_of_sandbox(order),
        draft.seen.policy,
    )
    draft.creations.append(CreateTask(body))


def _is_to_be_asked_again(draft: Draft, task: SandboxSnapshotTask) -> bool:
    """It failed a while ago: in use, or the provider was not well."""
    phase = _phase(task)
    if task.metadata.is_terminating or phase is None or not phase.is_terminal_for_task:
        return False
    status = task.status
    since = (status.observed_at if status else None) or task.metadata.creation_timestamp
    when = (since or draft.now) + timedelta(seconds=draft.seen.policy.delete_retry_s)
    if when > draft.now:
        draft.wake_at(when)
        return False
    return True


def _can_answer(draft: Draft, name: str) -> bool:
    node = draft.seen.nodes[name]
    return node_state(node).is_ready and name in draft.seen.living_agents


def _order_of(retired: RetiredSet, node: Node) -> Artifact:
    """What a Delete task is about. Deletion is asked for by one name, however often."""
    return Artifact(
        provider_name=retired.provider_name,
        node_name=node.metadata.name,
        node_uid=node.metadata.uid,
        snapshot_key=retired.snapshot_key,
        snapshot_hash=retired.snapshot_hash,
    )


def _phase(task: SandboxSnapshotTask) -> ArtifactPhase | None:
    return task.status.phase if task.status else None
