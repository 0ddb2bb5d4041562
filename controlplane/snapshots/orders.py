"""Find the tasks and build Sandboxes that belong to an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from controlplane.api import keys as api_keys
from controlplane.api import names
from controlplane.api.core import Sandbox
from controlplane.api.manifest import Artifact
from controlplane.api.meta import ObjectMeta
from controlplane.api.types import SandboxSnapshotTask, TaskOperation
from controlplane.snapshots import keys
from controlplane.snapshots.observed import Observed

# A name is a digest: 5,000 nodes times every look at them would be felt.
task_name = lru_cache(maxsize=65536)(keys.task_name)
build_sandbox_name = lru_cache(maxsize=65536)(keys.build_sandbox_name)
key_id = lru_cache(maxsize=8192)(api_keys.key_id)


class Orders:
    """One snapshot's tasks and build Sandboxes; each is claimed at most once in a plan."""

    def __init__(self, seen: Observed) -> None:
        self._uid = seen.snapshot.metadata.uid
        self._snapshot_name = seen.snapshot.metadata.name
        self._tasks = {task.metadata.name: task for task in seen.tasks}
        self._sandboxes = {one.metadata.name: one for one in seen.sandboxes}
        self._keys_of: dict[str, set[str]] = {}
        for node, meta in _placed(seen):
            self._keys_of.setdefault(node, set()).add(meta.label(names.SNAPSHOT_KEY_ID))

    def task(self, artifact: Artifact, operation: TaskOperation) -> SandboxSnapshotTask | None:
        """The artifact's own task; one of that name that says something else does not count."""
        if not self.is_busy(artifact.node_name):
            return None
        task = self._tasks.get(name_of_task(artifact, operation))
        return task if task is not None and self._is_of(task, artifact, operation) else None

    def sandbox(self, artifact: Artifact) -> Sandbox | None:
        """The build Sandbox of the artifact's attempt, if it is that and nobody deletes it."""
        if not self.is_busy(artifact.node_name):
            return None
        one = self._sandboxes.get(self.name_of_sandbox(artifact))
        return one if one is not None and self._is_build_of(one, artifact) else None

    def name_of_sandbox(self, artifact: Artifact) -> str:
        """The name of the build Sandbox of the artifact's attempt."""
        return build_sandbox_name(
            self._snapshot_name, artifact.snapshot_key, artifact.node_name, artifact.attempt
        )

    def is_name_taken(self, name: str) -> bool:
        """A task or Sandbox of that name is known."""
        return name in self._tasks or name in self._sandboxes

    def is_any_left(self, key: str, node_name: str) -> bool:
        """Some task or build Sandbox for this key still is on that node."""
        return self.is_busy(node_name) and key_id(key) in self._keys_of[node_name]

    def is_busy(self, node_name: str) -> bool:
        """Some task or build Sandbox is, or was, on that node when this was made."""
        return node_name in self._keys_of

    def release_task(self, task: SandboxSnapshotTask) -> None:
        """It is wanted: not among what is left over."""
        self._tasks.pop(task.metadata.name, None)

    def release_sandbox(self, sandbox: Sandbox) -> None:
        """It is wanted: not among what is left over."""
        self._sandboxes.pop(sandbox.metadata.name, None)

    def left_over(self) -> tuple[list[SandboxSnapshotTask], list[Sandbox]]:
        """What no artifact wants and nobody deletes yet."""
        return (
            [task for task in self._tasks.values() if not task.metadata.is_terminating],
            [one for one in self._sandboxes.values() if not one.metadata.is_terminating],
        )

    def _is_of(
        self, task: SandboxSnapshotTask, artifact: Artifact, operation: TaskOperation
    ) -> bool:
        spec = task.spec
        node_uid = task.metadata.annotation(names.TARGET_NODE_UID)
        return (
            spec.operation is operation
            and spec.target_node_name == artifact.node_name
            and spec.snapshot_uid == self._uid
            and spec.snapshot_key == artifact.snapshot_key
            and spec.snapshot_hash == artifact.snapshot_hash
            and spec.provider_name == artifact.provider_name
            and node_uid in ("", artifact.node_uid)
        )

    def _is_build_of(self, sandbox: Sandbox, artifact: Artifact) -> bool:
        meta = sandbox.metadata
        owner = meta.controller
        return (
            not meta.is_terminating
            and owner is not None
            and owner.uid == self._uid
            and meta.label(names.SNAPSHOT_UID) == self._uid
            and meta.label(names.SNAPSHOT_KEY_ID) == key_id(artifact.snapshot_key)
            and meta.annotation(names.SNAPSHOT_HASH) == artifact.snapshot_hash
            and node_of(sandbox) == artifact.node_name
        )


def _placed(seen: Observed) -> Iterator[tuple[str, ObjectMeta]]:
    for task in seen.tasks:
        yield task.spec.target_node_name, task.metadata
    for one in seen.sandboxes:
        yield node_of(one), one.metadata


def name_of_task(artifact: Artifact, operation: TaskOperation) -> str:
    """The name of the task of the artifact's attempt."""
    return task_name(artifact.snapshot_key, artifact.node_name, artifact.attempt, operation)


def node_of(sandbox: Sandbox) -> str:
    """Where a build Sandbox is pinned to."""
    return str(sandbox.spec.pod_template.spec.get("nodeName") or "")


def why_ended(sandbox: Sandbox | None) -> str:
    """Why a build Sandbox can never become ready any more, empty if it still can."""
    if sandbox is None:
        return ""
    finished, ready = sandbox.condition("Finished"), sandbox.condition("Ready")
    if finished is not None and finished.status == "True":
        return f"its Pod ended: {finished.reason} {finished.message}".rstrip()
    if ready is not None and ready.status == "False" and ready.reason in _ENDED:
        return f"its Pod ended: {ready.reason} {ready.message}".rstrip()
    return ""


_ENDED = frozenset({"PodSucceeded", "PodFailed", "SandboxExpired"})
