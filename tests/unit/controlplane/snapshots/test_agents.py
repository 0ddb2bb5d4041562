"""When an agent counts as living, whom a node concerns."""

from __future__ import annotations

import msgspec
import pytest

from controlplane.api import names
from controlplane.api.core import Lease, LeaseSpec, Node, NodeSpec, NodeStatus, Taint
from controlplane.api.manifest import Artifact, ArtifactSet, Manifest, RetiredSet
from controlplane.api.meta import Condition, ObjectMeta
from controlplane.snapshots.agents import AgentWatch
from controlplane.snapshots.interest import Holdings, has_changed, providers_of
from tests.fakes.snapshot_world import START


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _lease(node: str, *, holder: str = "agent", transitions: int = 0) -> Lease:
    return Lease(
        metadata=ObjectMeta(name=names.agent_lease(node)),
        spec=LeaseSpec(
            holder_identity=holder, lease_duration_seconds=40, lease_transitions=transitions
        ),
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def changed() -> list[str]:
    return []


@pytest.fixture
def watch(clock: Clock, changed: list[str]) -> AgentWatch:
    return AgentWatch(clock, changed.append)


def test_an_agent_lives_until_its_lease_has_not_changed_for_its_duration(
    watch: AgentWatch, clock: Clock, changed: list[str]
) -> None:
    watch.changed(None, _lease("node-a"))
    assert watch.living == {"node-a"}
    assert watch.expire() == 40
    clock.now_s += 39
    watch.expire()
    assert watch.living == {"node-a"}
    clock.now_s += 1
    assert watch.expire() is None
    assert watch.living == set()
    assert changed == ["node-a", "node-a"]


def test_a_renewal_wakes_nobody(watch: AgentWatch, clock: Clock, changed: list[str]) -> None:
    watch.changed(None, _lease("node-a"))
    for number in range(10):
        clock.now_s += 30
        watch.changed(None, _lease("node-a", transitions=number + 1))
        watch.expire()
    assert changed == ["node-a"]


def test_a_lease_that_looks_as_before_is_not_a_renewal(watch: AgentWatch, clock: Clock) -> None:
    watch.changed(None, _lease("node-a"))
    clock.now_s += 30
    watch.changed(None, _lease("node-a"))
    clock.now_s += 10
    watch.expire()
    assert not watch.living


def test_a_lease_that_is_given_back_or_deleted_ends_at_once(watch: AgentWatch) -> None:
    watch.changed(None, _lease("node-a"))
    watch.changed(None, _lease("node-a", holder=""))
    assert not watch.living
    watch.changed(None, _lease("node-b"))
    watch.changed(_lease("node-b"), None)
    assert not watch.living


def test_other_leases_do_not_count(watch: AgentWatch, changed: list[str]) -> None:
    watch.changed(None, Lease(metadata=ObjectMeta(name="snapstart-controlplane")))
    assert not changed


LABEL = names.provider_label("p")
NODE = Node(
    metadata=ObjectMeta(name="node-a", uid="u", labels={LABEL: "true"}, resource_version="1"),
    status=NodeStatus(
        conditions=(Condition(type="Ready", status="True", last_transition_time=START),)
    ),
)


def _node(**changes: object) -> Node:
    return msgspec.structs.replace(NODE, **changes)


def test_a_heartbeat_is_no_change() -> None:
    """Defect 52."""
    meta = msgspec.structs.replace(NODE.metadata, resource_version="2", annotations={"a": "b"})
    assert not has_changed(NODE, _node(metadata=meta))


@pytest.mark.parametrize(
    "after",
    [
        None,
        _node(metadata=msgspec.structs.replace(NODE.metadata, uid="other")),
        _node(metadata=msgspec.structs.replace(NODE.metadata, labels={})),
        _node(spec=NodeSpec(unschedulable=True)),
        _node(spec=NodeSpec(taints=(Taint(key="x", effect="NoSchedule"),))),
        _node(status=NodeStatus(conditions=(Condition(type="Ready", status="Unknown"),))),
    ],
    ids=["gone", "uid", "labels", "cordon", "taint", "ready"],
)
def test_what_bears_on_snapshots_is_a_change(after: Node | None) -> None:
    assert has_changed(NODE, after)


def test_providers_are_those_of_both_states() -> None:
    other = _node(metadata=ObjectMeta(name="node-a", labels={names.provider_label("q"): "true"}))
    assert providers_of(NODE, other, None) == {"p", "q"}


def test_holdings_know_who_has_something_on_a_node() -> None:
    holdings = Holdings()
    one = ArtifactSet(snapshot_key="k", artifacts=(Artifact(node_name="node-a"),))
    manifest = Manifest(
        artifact_sets={"k": one}, retired_sets=(RetiredSet(node_names=("node-b",)),)
    )
    holdings.learn(("ns", "s"), manifest)
    assert holdings.of("node-a") == holdings.of("node-b") == {("ns", "s")}
    holdings.learn(("ns", "s"), Manifest(artifact_sets={"k": one}))
    assert not holdings.of("node-b")
    holdings.learn(("ns", "s"), None)
    assert not holdings.of("node-a")
