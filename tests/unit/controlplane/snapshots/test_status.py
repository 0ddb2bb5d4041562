"""What a status says, what is told of its changes."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.manifest import Artifact
from controlplane.api.meta import Condition
from controlplane.api.types import ConditionType, SandboxSnapshotStatus, SnapshotPhase
from controlplane.snapshots.messages import cap_bytes, join_messages
from controlplane.snapshots.policy import Policy
from controlplane.snapshots.transitions import events_between
from tests.fakes.snapshot_world import START, make_ready_world, make_world


def test_all_conditions_are_always_there() -> None:
    world = make_ready_world("node-a")
    assert [one.type for one in world.status.conditions] == [kind.value for kind in ConditionType]
    assert world.condition("Ready") == "True"
    for kind in ("Degraded", "Rebuilding", "Stale", "ProtocolNotSupported"):
        assert world.condition(kind) == "False"


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    world = make_world("node-a", "node-b")
    world.agents.idle = {"node-b"}
    world.settle()
    world.advance(100)
    world.agents.idle = set()
    world.settle()
    times = {one.type: one.last_transition_time for one in world.status.conditions}
    assert times["Ready"] == START
    assert times["Degraded"] == START + timedelta(seconds=100)


def test_a_status_reads_back_as_it_was_written() -> None:
    """Defect 25: otherwise it would be written for ever."""
    world = make_ready_world("node-a")
    text = msgspec.json.encode(world.status)
    assert msgspec.json.decode(text, type=SandboxSnapshotStatus) == world.status


def test_the_generation_is_observed() -> None:
    world = make_ready_world("node-a")
    world.patch_snapshot({"spec": {"forkPolicy": {"rebuildAfter": "24h"}}})
    world.settle()
    generation = world.snapshot.metadata.generation
    assert {one.observed_generation for one in world.status.conditions} == {generation}


@given(st.text(max_size=500), st.integers(min_value=4, max_value=300))
def test_a_text_is_cut_to_bytes_never_inside_a_character(text: str, most: int) -> None:
    """Defect 55."""
    clean = text.encode(errors="replace").decode()
    cut = cap_bytes(clean, most)
    assert len(cut.encode()) <= most
    assert cut == clean or cut.endswith("...")


def test_messages_name_so_many_nodes_at_most() -> None:
    """Defect 55."""
    artifacts = [Artifact(node_name=f"node-{n:03d}", message="x") for n in range(5000)]
    text = join_messages(artifacts, Policy())
    assert text.startswith("node-000: x; node-001: x")
    assert text.endswith("and 4990 more nodes")


def _status(
    phase: SnapshotPhase, ready: int = 1, failed: int = 0, **more: object
) -> SandboxSnapshotStatus:
    return msgspec.structs.replace(
        SandboxSnapshotStatus(
            phase=phase,
            target_node_count=ready + failed,
            ready_node_count=ready,
            failed_node_count=failed,
        ),
        **more,
    )


def test_nothing_is_told_of_a_status_that_stays() -> None:
    one = _status(SnapshotPhase.READY)
    assert events_between(one, one) == []


def test_a_count_that_changes_while_ready_is_told() -> None:
    before, after = _status(SnapshotPhase.READY, 2), _status(SnapshotPhase.READY, 1, 1)
    assert [event.reason for event in events_between(before, after)] == ["SandboxSnapshotDegraded"]
    assert events_between(after, before) == []


def test_another_problem_after_the_first_is_told() -> None:
    def failed(reason: str) -> SandboxSnapshotStatus:
        condition = Condition(type="Ready", status="False", reason=reason)
        return _status(SnapshotPhase.FAILED, 0, conditions=(condition,), message="why")

    events = events_between(failed("SnapshotClassNotFound"), failed("NoTargetNodes"))
    assert [event.reason for event in events] == ["NoTargetNodes"]
    assert all(event.is_warning for event in events)
