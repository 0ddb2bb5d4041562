"""Define SnapshotClass, SandboxSnapshot, SandboxSnapshotTask."""

from __future__ import annotations

import enum
from datetime import datetime

import msgspec

from controlplane.api.meta import Camel, Condition, ObjectMeta, TypedReference


class SnapshotMode(enum.StrEnum):
    """How a snapshot is used: Fork 1:N without user state, Resume 1:1 with it."""

    FORK = "Fork"
    RESUME = "Resume"


class SnapshotPhase(enum.StrEnum):
    """A SandboxSnapshot's phase."""

    PENDING = "Pending"
    CREATING = "Creating"
    READY = "Ready"
    FAILED = "Failed"


class ArtifactPhase(enum.StrEnum):
    """One node's artifact, in the manifest and in a task's status."""

    CREATING = "Creating"
    READY = "Ready"
    FAILED = "Failed"
    UNAVAILABLE = "Unavailable"

    @property
    def is_terminal_for_task(self) -> bool:
        """A task in this phase is done; the agent leaves it alone."""
        return self is not ArtifactPhase.CREATING


class TaskOperation(enum.StrEnum):
    """What a task orders."""

    CREATE = "Create"
    DELETE = "Delete"
    INSPECT = "Inspect"


class ConditionType(enum.StrEnum):
    """Conditions of a SandboxSnapshot."""

    READY = "Ready"
    DEGRADED = "Degraded"
    REBUILDING = "Rebuilding"
    STALE = "Stale"
    PROTOCOL_NOT_SUPPORTED = "ProtocolNotSupported"


class SnapshotClassSpec(Camel, frozen=True):
    """What a provider can do, where, and how its build pods are marked."""

    provider_name: str
    supported_snapshot_modes: tuple[SnapshotMode, ...]
    node_selector: dict[str, str] | None = None
    build_pod_annotations: dict[str, str] | None = None


class SnapshotClass(Camel, frozen=True):
    """Cluster-scoped."""

    metadata: ObjectMeta
    spec: SnapshotClassSpec


class ForkPolicy(Camel, frozen=True):
    """When to build anew. rebuild_after: a Go duration, absent = never."""

    rebuild_on_source_change: bool | None = None
    rebuild_after: str | None = None

    @property
    def is_rebuilt_on_source_change(self) -> bool:
        """Absent means true."""
        return self.rebuild_on_source_change is not False


class SandboxSnapshotSpec(Camel, frozen=True):
    """What to snapshot, how."""

    snapshot_mode: SnapshotMode
    source_ref: TypedReference
    snapshot_class_name: str
    fork_policy: ForkPolicy | None = None


class SandboxSnapshotStatus(Camel, frozen=True, omit_defaults=False):
    """Written by the snapshot controller alone; the four counts always sum up to the target."""

    phase: SnapshotPhase = SnapshotPhase.PENDING
    target_node_count: int = 0
    creating_node_count: int = 0
    ready_node_count: int = 0
    failed_node_count: int = 0
    unavailable_node_count: int = 0
    ready_at: datetime | None = None
    conditions: tuple[Condition, ...] = ()
    message: str = ""


class SandboxSnapshot(Camel, frozen=True):
    """Namespaced."""

    metadata: ObjectMeta
    spec: SandboxSnapshotSpec
    status: SandboxSnapshotStatus | None = None


class SandboxSnapshotTaskSpec(Camel, frozen=True):
    """An order to one node; immutable."""

    snapshot_ref: TypedReference
    snapshot_uid: str = msgspec.field(name="snapshotUID")
    snapshot_mode: SnapshotMode
    target_sandbox_ref: TypedReference
    target_node_name: str
    provider_name: str
    snapshot_key: str
    snapshot_hash: str
    operation: TaskOperation = TaskOperation.CREATE


class SandboxSnapshotTaskStatus(Camel, frozen=True):
    """Written by the node's agent alone. phase: absent until the agent has seen the task."""

    phase: ArtifactPhase | None = None
    message: str = ""
    observed_at: datetime | None = None
    started_at: datetime | None = None
    attempts: int = 0
    pod_uid: str = msgspec.field(name="podUID", default="")


class SandboxSnapshotTask(Camel, frozen=True):
    """Namespaced, internal."""

    metadata: ObjectMeta
    spec: SandboxSnapshotTaskSpec
    status: SandboxSnapshotTaskStatus | None = None
