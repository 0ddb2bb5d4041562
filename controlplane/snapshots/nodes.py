"""Choose the nodes on which a template is to be snapshotted."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from controlplane.api.core import Node, RuntimeClass
from controlplane.api.meta import JsonObject
from controlplane.api.names import provider_label
from controlplane.api.types import SnapshotClass
from controlplane.snapshots.affinity import matches_affinity
from controlplane.snapshots.tolerations import find_untolerated


class Refusal(enum.StrEnum):
    """Why a node is no target; the value reads in "2 nodes ..."."""

    NOT_PINNED = "not the node that the pod spec names"
    NO_PROVIDER = "without the provider's label"
    SELECTOR = "not matching the selectors"
    AFFINITY = "not matching the node affinity"
    CORDONED = "cordoned"
    TAINT = "tainted"
    NOT_READY = "not ready"


@dataclass(frozen=True)
class Demand:
    """What a template asks of a node. problem: why no node can ever fit, empty if one can."""

    provider_label: str
    selector: Mapping[str, str]
    tolerations: tuple[JsonObject, ...]
    pod_spec: JsonObject
    problem: str = ""


@dataclass(frozen=True)
class Targets:
    """nodes: sorted names. why_not: of every other node. problem: why there can be no target."""

    nodes: tuple[str, ...]
    why_not: Mapping[str, Refusal]
    problem: str = ""

    @cached_property
    def counts(self) -> Mapping[Refusal, int]:
        """How many nodes were refused for each reason."""
        return Counter(self.why_not.values())

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        refused = ", ".join(f"{count} {why.value}" for why, count in sorted(self.counts.items()))
        total = len(self.nodes) + len(self.why_not)
        return f"{len(self.nodes)} of {total} nodes eligible" + (refused and f" ({refused})")


@dataclass(frozen=True)
class NodeState:
    """since: when it became so; None if nobody recorded it."""

    is_ready: bool
    since: datetime | None


def choose_targets(
    pod_spec: JsonObject,
    snapshot_class: SnapshotClass,
    runtime_class: RuntimeClass | None,
    nodes: Iterable[Node],
) -> Targets:
    """The nodes that meet every hard constraint. runtime_class: None if it does not exist."""
    demand = plan_demand(pod_spec, snapshot_class, runtime_class)
    if demand.problem:
        return Targets((), {}, demand.problem)
    verdicts = {node.metadata.name: classify_node(demand, node) for node in nodes}
    return Targets(
        nodes=tuple(sorted(name for name, refusal in verdicts.items() if refusal is None)),
        why_not={name: refusal for name, refusal in verdicts.items() if refusal is not None},
    )


def plan_demand(
    pod_spec: JsonObject, snapshot_class: SnapshotClass, runtime_class: RuntimeClass | None
) -> Demand:
    """Put together what Pod, class and RuntimeClass demand; done once for any number of nodes."""
    scheduling = runtime_class.scheduling if runtime_class else None
    problem = _missing_runtime_class(pod_spec, runtime_class)
    selector: dict[str, str] = {}
    for whose, wanted in (
        ("the pod spec", pod_spec.get("nodeSelector")),
        ("the SnapshotClass", snapshot_class.spec.node_selector),
        ("the RuntimeClass", scheduling.node_selector if scheduling else None),
    ):
        problem = problem or _contradiction(selector, whose, wanted or {})
        selector.update(wanted or {})
    return Demand(
        provider_label=provider_label(snapshot_class.spec.provider_name),
        selector=selector,
        tolerations=(
            *(pod_spec.get("tolerations") or ()),
            *((scheduling.tolerations if scheduling else None) or ()),
        ),
        pod_spec=pod_spec,
        problem=problem,
    )


def classify_node(demand: Demand, node: Node) -> Refusal | None:
    """None if it is a target, else what comes first of the reasons, the most lasting ones ahead."""
    labels, pinned = node.metadata.labels or {}, demand.pod_spec.get("nodeName")
    if pinned and pinned != node.metadata.name:
        return Refusal.NOT_PINNED
    if labels.get(demand.provider_label) != "true":
        return Refusal.NO_PROVIDER
    if any(labels.get(key) != value for key, value in demand.selector.items()):
        return Refusal.SELECTOR
    if not matches_affinity(demand.pod_spec, node):
        return Refusal.AFFINITY
    return _classify_condition(demand, node)


def node_state(node: Node) -> NodeState:
    """Its readiness; a node that never reported is not ready since it was created."""
    condition = node.ready
    if condition is None:
        return NodeState(False, node.metadata.creation_timestamp)
    return NodeState(condition.status == "True", condition.last_transition_time)


def _classify_condition(demand: Demand, node: Node) -> Refusal | None:
    """Cordoned and not ready are told as such, before the taints that come with them."""
    if node.spec.unschedulable:
        return Refusal.CORDONED
    if not node_state(node).is_ready:
        return Refusal.NOT_READY
    if find_untolerated(node.spec.taints or (), demand.tolerations) is not None:
        return Refusal.TAINT
    return None


def _missing_runtime_class(pod_spec: JsonObject, runtime_class: RuntimeClass | None) -> str:
    name = pod_spec.get("runtimeClassName") or ""
    if not name or (runtime_class is not None and runtime_class.metadata.name == name):
        return ""
    return f"RuntimeClass {name!r}, which the pod spec names, does not exist"


def _contradiction(known: Mapping[str, str], whose: str, wanted: Mapping[str, str]) -> str:
    """Two demands on one label that no node can meet are not settled by overriding one."""
    key = next((key for key in wanted if known.get(key, wanted[key]) != wanted[key]), None)
    if key is None:
        return ""
    return (
        f"no node can match: {whose} wants label {key}={wanted[key]!r}, another selector "
        f"{known[key]!r}"
    )
