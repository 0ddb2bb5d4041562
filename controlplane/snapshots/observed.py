"""Define what is known of one SandboxSnapshot at one moment."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from controlplane.api.core import Node, RuntimeClass, Sandbox, SandboxTemplate
from controlplane.api.types import SandboxSnapshot, SandboxSnapshotTask, SnapshotClass
from controlplane.snapshots.policy import Policy
from controlplane.store.store import Stored


class NoManifest(enum.Enum):
    """Why there is no manifest to go by. A store that cannot be asked is neither: do not plan."""

    ABSENT = "absent"
    CORRUPT = "corrupt"


@dataclass(frozen=True)
class Observed:
    """One SandboxSnapshot with everything that decides about it.

    nodes: those that carry its provider's label or are named in its manifest, at least.
    living_agents: nodes whose agent renews its Lease.
    busy_nodes: nodes that are deleting an artifact of another snapshot.
    refused: names of tasks and build Sandboxes that the API server would not have just now, with
    what it said.
    tasks, sandboxes: of this snapshot's UID, by owner or by label, whatever their key.
    """

    snapshot: SandboxSnapshot
    snapshot_class: SnapshotClass | None = None
    template: SandboxTemplate | None = None
    runtime_class: RuntimeClass | None = None
    nodes: Mapping[str, Node] = field(default_factory=dict)
    living_agents: AbstractSet[str] = frozenset()
    busy_nodes: AbstractSet[str] = frozenset()
    tasks: tuple[SandboxSnapshotTask, ...] = ()
    sandboxes: tuple[Sandbox, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    stored: Stored | NoManifest = NoManifest.ABSENT
    policy: Policy = field(default_factory=Policy)
