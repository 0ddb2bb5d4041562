"""Define what a plan orders: each step is one effect on one outside thing."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from controlplane.api.core import PodTemplate
from controlplane.api.manifest import Artifact, Manifest
from controlplane.api.meta import ObjectMeta
from controlplane.api.types import SandboxSnapshotStatus, SandboxSnapshotTask


@dataclass(frozen=True)
class ConfirmSnapshot:
    """Ask the API server itself: the snapshot still exists, nobody deletes it.

    may_be_going: it may be on its way out, if only it exists.
    """

    may_be_going: bool = False


@dataclass(frozen=True)
class AddFinalizer:
    """Keep the snapshot until this program has cleaned up."""


@dataclass(frozen=True)
class RemoveFinalizer:
    """Let the snapshot go."""


@dataclass(frozen=True)
class RemoveForceRebuild:
    """Take the annotation away: what it asked for is done."""


@dataclass(frozen=True)
class PutManifest:
    """Write the manifest if the stored text still is `version`, None: if there is none."""

    manifest: Manifest
    version: str | None


@dataclass(frozen=True)
class DeleteManifest:
    """Remove the manifest. version: only if the stored text still is that; None: whatever it is."""

    version: str | None


@dataclass(frozen=True)
class BuildSandbox:
    """A build Sandbox, in no particular version of agent-sandbox's API."""

    metadata: ObjectMeta
    pod_template: PodTemplate
    shutdown_time: datetime


@dataclass(frozen=True)
class CreateBuildSandbox:
    """Create it; one of that name that is there already is as good."""

    sandbox: BuildSandbox


@dataclass(frozen=True)
class DeleteSandbox:
    """Delete a build Sandbox, only that of this UID."""

    name: str
    uid: str


@dataclass(frozen=True)
class CreateTask:
    """Create it; one of that name that is there already is as good."""

    task: SandboxSnapshotTask


@dataclass(frozen=True)
class DeleteTask:
    """Delete a task, only that of this UID."""

    name: str
    uid: str


@dataclass(frozen=True)
class WriteStatus:
    """Replace the snapshot's status if the snapshot is still as observed."""

    status: SandboxSnapshotStatus


@dataclass(frozen=True)
class EmitEvent:
    """Tell people. is_warning: something did not go well."""

    reason: str
    message: str
    is_warning: bool = False


class Metric(enum.StrEnum):
    """What is counted or measured, by the label it carries."""

    BUILD_TASKS = "build_tasks"  # phase
    BUILD_SECONDS = "build_seconds"  # provider, mode
    REBUILDS = "rebuilds"  # reason
    RECORDS_REMOVED = "records_removed"  # reason
    PHYSICAL_DELETES = "physical_deletes"  # result


@dataclass(frozen=True)
class Count:
    """Add to a counter, or take down a measurement. amount: how many, or how long.

    about: the artifact whose build is over, where that is counted.
    """

    metric: Metric
    labels: tuple[str, ...] = ()
    amount: float = 1.0
    about: Artifact | None = field(default=None, compare=False)


Step: TypeAlias = (
    ConfirmSnapshot
    | AddFinalizer
    | RemoveFinalizer
    | RemoveForceRebuild
    | PutManifest
    | DeleteManifest
    | CreateBuildSandbox
    | DeleteSandbox
    | CreateTask
    | DeleteTask
    | WriteStatus
    | EmitEvent
    | Count
)


@dataclass(frozen=True)
class Plan:
    """What to do, in this order, ending with the first step that fails; when to look again."""

    steps: tuple[Step, ...] = ()
    requeue_at: datetime | None = None
