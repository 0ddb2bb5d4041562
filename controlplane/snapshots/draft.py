"""Hold what a plan has decided so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from msgspec.structs import replace

from controlplane.api.manifest import Artifact, ArtifactSet, Manifest
from controlplane.snapshots.observed import Observed
from controlplane.snapshots.source import Problem, Source
from controlplane.snapshots.steps import Step


@dataclass
class Draft:
    """Lives within one call of the planner.

    manifest: as it will be stored. wakes: when something falls due. facts: events and counts that
    belong to the manifest's change. inspections: (key, node) of what is unavailable on a node that
    is fit again. is_forced_done: the force-rebuild annotation has had its way.
    """

    seen: Observed
    now: datetime
    source: Source | Problem
    manifest: Manifest
    wakes: list[datetime] = field(default_factory=list)
    facts: list[Step] = field(default_factory=list)
    cancels: list[Step] = field(default_factory=list)
    creations: list[Step] = field(default_factory=list)
    cleanups: list[Step] = field(default_factory=list)
    inspections: set[tuple[str, str]] = field(default_factory=set)
    is_forced_done: bool = False

    def wake_at(self, when: datetime) -> None:
        """Look again then. Plans know whole seconds: within one nothing falls due."""
        whole = when.replace(microsecond=0)
        self.wakes.append(whole if whole == when else whole + timedelta(seconds=1))

    def wake_in(self, seconds: float) -> None:
        """Look again after so many seconds."""
        self.wakes.append(self.now + timedelta(seconds=seconds))

    def is_due(self, since: datetime, seconds: float) -> bool:
        """So many seconds have passed; if not, look again when they have."""
        when = since + timedelta(seconds=seconds)
        if when > self.now:
            self.wake_at(when)
            return False
        return True

    def put_set(self, one: ArtifactSet) -> None:
        """Add a set, or replace it."""
        sets = {**(self.manifest.artifact_sets or {}), one.snapshot_key: one}
        self.manifest = replace(self.manifest, artifact_sets=sets)

    def can_build(self, one: ArtifactSet) -> bool:
        """The source still is what this set is made of."""
        return isinstance(self.source, Source) and one.snapshot_hash == self.source.snapshot_hash

    @property
    def serving_sets(self) -> tuple[ArtifactSet, ...]:
        """Active and pending, as far as there are any."""
        both = (self.manifest.active, self.manifest.pending)
        return tuple(one for one in both if one is not None)


def artifacts_of(one: ArtifactSet | None) -> tuple[Artifact, ...]:
    """A set's artifacts, none if there is no set."""
    return (one.artifacts or ()) if one is not None else ()
