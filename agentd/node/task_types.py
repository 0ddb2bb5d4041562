"""What is known of a task, what is to be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentd.providers.driver import CreateRequest, LocalArtifact
from controlplane.api.core import Pod, Sandbox
from controlplane.api.types import (
    ArtifactPhase,
    SandboxSnapshot,
    SandboxSnapshotTask,
    SnapshotMode,
)

RECHECK_S: Final = 5.0


@dataclass(frozen=True)
class Observed:
    """What bears on a task, read from the API server and the driver just now.

    capabilities: of each provider that is configured here. snapshot, sandbox, pod: None if there is
    none. artifact: what the task's provider has under its key. artifact_problem: why that could not
    be told.
    """

    task: SandboxSnapshotTask
    node_name: str
    cluster: str
    capabilities: Mapping[str, frozenset[SnapshotMode]]
    snapshot: SandboxSnapshot | None = None
    sandbox: Sandbox | None = None
    pod: Pod | None = None
    artifact: LocalArtifact | None = None
    artifact_problem: str = ""


@dataclass(frozen=True)
class Ignore:
    """Not this node's business, not any more, or never."""

    why: str


@dataclass(frozen=True)
class Report:
    """It is over. event: reason of an event to go with it, empty for none."""

    phase: ArtifactPhase
    message: str = ""
    event: str = ""


@dataclass(frozen=True)
class Wait:
    """Not yet. delay_s: until the next look."""

    message: str
    delay_s: float = RECHECK_S
    event: str = ""


@dataclass(frozen=True)
class Create:
    """Have the driver make the artifact."""

    request: CreateRequest


@dataclass(frozen=True)
class Delete:
    """Have the driver remove the artifact."""

    key: str


Decision = Ignore | Report | Wait | Create | Delete
