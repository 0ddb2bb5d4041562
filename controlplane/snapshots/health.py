"""Judge whether a node's artifact can be used now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from controlplane.api.core import Node
from controlplane.api.names import provider_label
from controlplane.snapshots.nodes import Refusal, classify_node, node_state
from controlplane.snapshots.observed import Observed
from controlplane.snapshots.policy import is_restored_by_agent
from controlplane.snapshots.source import Source

# Set from the Ready condition a little later than it, taken away a little later too: the condition
# itself is judged here, with a grace time.
_LIFECYCLE_TAINTS: Final = frozenset(
    {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
)


@dataclass(frozen=True)
class Health:
    """outage: why the node's artifact cannot be used, empty if it can. until: when a node that is
    not ready will have been so for too long."""

    outage: str = ""
    until: datetime | None = None

    @property
    def is_good(self) -> bool:
        """Nothing is wrong, not even for a while."""
        return not self.outage and self.until is None


_GOOD: Final = Health()


def judge_node(
    seen: Observed, source: Source, node: Node, now: datetime, *, is_current: bool
) -> Health:
    """Whether an artifact there is usable.

    Args: is_current: its set is built from the source as it is now. Of a stale set nobody knows
    any more what the source demanded, so that only provider and node count.
    """
    name = node.metadata.name
    is_heard = not is_restored_by_agent(source.provider_name) or name in seen.living_agents
    if is_current and is_heard and name in source.target_names:
        return _GOOD  # the usual case, thousands of times: a target is ready
    state = node_state(node)
    if not state.is_ready:
        grace = timedelta(seconds=seen.policy.node_grace_s)
        if state.since is not None and state.since + grace > now:
            return Health(until=state.since + grace)
        return Health("the node is not ready")
    if not is_heard:
        return Health("its agent does not answer")
    if is_current and source.targets.problem:
        return Health(source.targets.problem)
    refusal = _refusal(source, node) if is_current else _basic_refusal(source, node)
    return Health(f"the node is {refusal.value}") if refusal is not None else _GOOD


def _refusal(source: Source, node: Node) -> Refusal | None:
    refusal = source.why_not(node.metadata.name)
    if refusal is not Refusal.TAINT:
        return refusal
    taints = tuple(t for t in node.spec.taints or () if t.key not in _LIFECYCLE_TAINTS)
    return classify_node(source.demand, replace(node, spec=replace(node.spec, taints=taints)))


def _basic_refusal(source: Source, node: Node) -> Refusal | None:
    if node.metadata.label(provider_label(source.provider_name)) != "true":
        return Refusal.NO_PROVIDER
    return Refusal.CORDONED if node.spec.unschedulable else None
