"""Which nodes a template is snapshotted on, and why not on the others."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.api.core import Node, NodeStatus, RuntimeClass, RuntimeClassScheduling
from controlplane.api.meta import Condition, JsonObject, ObjectMeta
from controlplane.snapshots.nodes import NodeState, Refusal, Targets, choose_targets, node_state
from tests.unit.controlplane.snapshots.samples import LABEL, node, pod_spec, snapshot_class

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
CLASS = snapshot_class()
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def affinity(*terms: JsonObject) -> JsonObject:
    """A pod spec that requires one of these terms."""
    return pod_spec(affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}})


def expression(operator: str, *values: str, key: str = "gen") -> JsonObject:
    """A term of one label expression."""
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def field(operator: str, *values: str, key: str = "metadata.name") -> JsonObject:
    """A term of one field expression."""
    return {"matchFields": [{"key": key, "operator": operator, "values": list(values)}]}


def runtime_class(name: str = "vm", **scheduling: Any) -> RuntimeClass:
    """A RuntimeClass with this scheduling."""
    return RuntimeClass(
        metadata=ObjectMeta(name=name), scheduling=RuntimeClassScheduling(**scheduling)
    )


def choose(
    spec: JsonObject, *nodes: Node, runtime: RuntimeClass | None = None, **selector: str
) -> Targets:
    """Choose among these nodes, with a class selector."""
    chosen = snapshot_class(node_selector=selector or None)
    return choose_targets(spec, chosen, runtime, nodes or (node(),))


def test_all_eligible_nodes_are_targets_in_order_of_name() -> None:
    targets = choose(pod_spec(), node("b"), node("a"), node("c", ready="Unknown"))
    assert targets.nodes == ("a", "b")
    assert targets.why_not == {"c": Refusal.NOT_READY}
    assert str(targets) == "2 of 3 nodes eligible (1 not ready)"


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (node(labels={LABEL: "false"}), Refusal.NO_PROVIDER),
        (node(labels={LABEL: "True"}), Refusal.NO_PROVIDER),
        (node(unschedulable=True), Refusal.CORDONED),
        (node(ready="False"), Refusal.NOT_READY),
        (Node(metadata=ObjectMeta(name="n", labels={LABEL: "true"})), Refusal.NOT_READY),
        (node(taints=[("k", "v", "NoSchedule")]), Refusal.TAINT),
        (node(taints=[("k", "v", "NoExecute")]), Refusal.TAINT),
        (node(taints=[("k", "v", "PreferNoSchedule")]), None),
    ],
)
def test_a_node_has_to_be_fit(one: Node, why: Refusal | None) -> None:
    targets = choose(pod_spec(), one)
    assert targets.why_not.get(one.metadata.name) is why
    assert bool(targets.nodes) is (why is None)


def test_selectors_of_pod_class_and_runtime_class_all_hold() -> None:
    spec = pod_spec(nodeSelector={"a": "1"}, runtimeClassName="vm")
    runtime = runtime_class(node_selector={"c": "3"})
    fit = node("fit", labels={"a": "1", "b": "2", "c": "3"})
    others = [
        node(
            f"without-{key}",
            labels={k: v for k, v in (fit.metadata.labels or {}).items() if k not in (key, LABEL)},
        )
        for key in "abc"
    ]
    targets = choose(spec, fit, *others, runtime=runtime, b="2")
    assert targets.nodes == ("fit",)
    assert targets.counts == {Refusal.SELECTOR: 3}


@pytest.mark.parametrize(
    ("pod", "of_class", "runtime"),
    [
        ({"zone": "a"}, {"zone": "b"}, None),
        ({"zone": "a"}, {}, {"zone": "b"}),
        ({}, {"zone": "a"}, {"zone": "b"}),
    ],
)
def test_defect_46_contradicting_selectors_leave_no_node(
    pod: dict[str, str], of_class: dict[str, str], runtime: dict[str, str] | None
) -> None:
    spec = pod_spec(nodeSelector=pod, runtimeClassName="vm")
    nodes = [node("in-a", labels={"zone": "a"}), node("in-b", labels={"zone": "b"})]
    targets = choose(spec, *nodes, runtime=runtime_class(node_selector=runtime), **of_class)
    assert targets.nodes == ()
    assert "zone" in targets.problem
    assert str(targets) == targets.problem


def test_selectors_that_agree_are_no_contradiction() -> None:
    targets = choose(pod_spec(nodeSelector={"zone": "a"}), node(labels={"zone": "a"}), zone="a")
    assert targets.nodes == ("node-a",)


@pytest.mark.parametrize(
    ("toleration", "is_tolerated"),
    [
        ({"key": "k", "value": "v", "effect": "NoSchedule"}, True),
        ({"key": "k", "operator": "Equal", "value": "v"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "k", "value": "v", "tolerationSeconds": 0}, True),
        ({"key": "k", "value": "other"}, False),
        ({"key": "k"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "k", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"value": "v"}, False),
        ({"key": "k", "operator": "Gt", "value": "v"}, False),
    ],
)
def test_taints_are_tolerated_as_kubernetes_does(
    toleration: JsonObject, is_tolerated: bool
) -> None:
    tainted = node(taints=[("k", "v", "NoSchedule")])
    assert bool(choose(pod_spec(tolerations=[toleration]), tainted).nodes) is is_tolerated


def test_tolerations_of_the_runtime_class_count_and_the_pod_spec_is_left_alone() -> None:
    spec = pod_spec(runtimeClassName="vm", tolerations=[{"key": "a", "operator": "Exists"}])
    tainted = node(taints=[("a", "", "NoSchedule"), ("b", "", "NoExecute")])
    runtime = runtime_class(tolerations=({"key": "b", "operator": "Exists"},))
    assert choose(spec, tainted, runtime=runtime).nodes == ("node-a",)
    assert len(spec["tolerations"]) == 1


@pytest.mark.parametrize(
    ("term", "matches"),
    [
        (expression("In", "4", "5"), True),
        (expression("In", "4"), False),
        (expression("In", key="absent"), False),
        (expression("NotIn", "4"), True),
        (expression("NotIn", "5"), False),
        (expression("NotIn", "5", key="absent"), True),
        (expression("Exists"), True),
        (expression("Exists", key="absent"), False),
        (expression("DoesNotExist"), False),
        (expression("DoesNotExist", key="absent"), True),
        (expression("Gt", "4"), True),
        (expression("Gt", "5"), False),
        (expression("Lt", "10"), True),
        (expression("Lt", "5"), False),
        (expression("Gt", "-1"), True),
        (expression("Gt", "x"), False),
        (expression("Gt", "1", "2"), False),
        (expression("Gt", "1", key="word"), False),
        (expression("Gt", "1", key="absent"), False),
        (expression("Lt", "1_0"), False),
        (expression("Odd", "5"), False),
        (field("In", "node-a"), True),
        (field("In", "node-b"), False),
        (field("NotIn", "node-b"), True),
        (field("NotIn", "node-a"), False),
        (field("In", "node-a", "node-b"), False),
        (field("Exists", "node-a"), False),
        (field("NotIn", "x", key="spec.nodeName"), False),
        ({**expression("Exists"), **field("In", "node-b")}, False),
        ({}, False),
        ({"matchExpressions": [], "matchFields": None}, False),
    ],
)
def test_defect_47_affinity_terms_mean_what_kubernetes_says(
    term: JsonObject, matches: bool
) -> None:
    targets = choose(affinity(term), node(labels={"gen": "5", "word": "x"}))
    assert bool(targets.nodes) is matches
    assert matches or targets.why_not["node-a"] is Refusal.AFFINITY


def test_affinity_terms_are_alternatives_and_none_matches_nothing() -> None:
    assert choose(affinity({}, field("In", "node-a"))).nodes
    assert not choose(affinity()).nodes
    assert not choose(pod_spec(affinity={"nodeAffinity": {REQUIRED: {}}})).nodes
    assert choose(pod_spec(affinity={"nodeAffinity": {REQUIRED: None}})).nodes
    assert choose(pod_spec(affinity={"podAffinity": {REQUIRED: [{}]}})).nodes


def test_defect_47_a_pinned_node_is_the_only_one_and_passes_all_checks() -> None:
    nodes = [node("a"), node("b")]
    targets = choose(pod_spec(nodeName="b"), *nodes)
    assert targets.nodes == ("b",)
    assert targets.why_not == {"a": Refusal.NOT_PINNED}
    pinned = {**affinity(field("In", "a")), "nodeName": "b"}
    assert choose(pinned, *nodes).why_not["b"] is Refusal.AFFINITY
    assert choose(pod_spec(nodeName="absent"), *nodes).nodes == ()


@pytest.mark.parametrize("runtime", [None, runtime_class("another")])
def test_defect_47_a_runtime_class_that_does_not_exist_leaves_no_node(
    runtime: RuntimeClass | None,
) -> None:
    targets = choose(pod_spec(runtimeClassName="vm"), runtime=runtime)
    assert targets.nodes == ()
    assert "'vm'" in targets.problem
    assert targets.why_not == {}


@pytest.mark.parametrize("name", ["", None])
def test_no_runtime_class_is_needed_where_none_is_named(name: str | None) -> None:
    assert choose(pod_spec(runtimeClassName=name)).nodes


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ((Condition(type="Ready", status="True", last_transition_time=WHEN),), (True, WHEN)),
        ((Condition(type="Ready", status="Unknown", last_transition_time=WHEN),), (False, WHEN)),
        ((Condition(type="DiskPressure", status="True"),), (False, None)),
        (None, (False, None)),
    ],
)
def test_state_of_a_node_has_a_beginning(
    conditions: tuple[Condition, ...] | None, state: tuple[bool, datetime | None]
) -> None:
    one = Node(metadata=ObjectMeta(name="n"), status=NodeStatus(conditions=conditions))
    assert node_state(one) == NodeState(*state)


def test_a_node_that_never_reported_is_unready_since_its_creation() -> None:
    one = Node(metadata=ObjectMeta(name="n", creation_timestamp=WHEN))
    assert node_state(one) == NodeState(False, WHEN)
