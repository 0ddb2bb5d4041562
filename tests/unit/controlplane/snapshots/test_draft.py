"""When a plan asks to be made again."""

from __future__ import annotations

from datetime import timedelta

from controlplane.api.manifest import Manifest
from controlplane.snapshots.draft import Draft
from controlplane.snapshots.source import Problem
from tests.fakes.snapshot_world import make_world


def test_what_falls_due_within_a_second_is_looked_at_once_at_its_end() -> None:
    """Agents stamp microseconds; a wake in the past of the second would be asked for in a loop."""
    world = make_world("node-a")
    draft = Draft(world.observe(), world.now, Problem("x", "y", 1.0), Manifest())
    assert not draft.is_due(world.now + timedelta(microseconds=600_000), 0.0)
    draft.wake_at(world.now + timedelta(seconds=5))
    assert draft.wakes == [world.now + timedelta(seconds=1), world.now + timedelta(seconds=5)]
