"""Describe a virtual Node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from controlplane.api import names
from controlplane.api.meta import JsonObject
from controlplane.kube.resource import NODES

_TAINT: Final = {"key": names.VIRTUAL_NODE, "value": "true", "effect": "NoSchedule"}
_PRESSURES: Final = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")


@dataclass(frozen=True)
class NodeFacts:
    """What a virtual Node says of itself. memory_bytes, pods: what may run here at once."""

    name: str
    address: str
    cpus: int
    memory_bytes: int
    pods: int
    architecture: str
    kernel: str
    os_image: str
    machine_id: str
    boot_id: str
    engine: str
    version: str
    labels: Mapping[str, str]


def node_labels(facts: NodeFacts) -> dict[str, str]:
    """Its labels, the operator's own among them."""
    return {
        **facts.labels,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": facts.architecture,
        "kubernetes.io/hostname": facts.name,
        "kubernetes.io/role": "agent",
        "node.kubernetes.io/exclude-from-external-load-balancers": "true",
        names.VIRTUAL_NODE: "true",
    }


def new_node(facts: NodeFacts) -> JsonObject:
    """The object to create."""
    return {
        "apiVersion": NODES.api_version,
        "kind": NODES.kind,
        "metadata": {"name": facts.name, "labels": node_labels(facts)},
        "spec": {"taints": [_TAINT], "providerID": f"snapstart://{facts.name}"},
    }


def is_virtual(node: JsonObject) -> bool:
    """A Node of that name that a kubelet registered is not ours to write."""
    labels = node.get("metadata", {}).get("labels") or {}
    return bool(labels.get(names.VIRTUAL_NODE) == "true")


def plan_repair(node: JsonObject, facts: NodeFacts) -> JsonObject | None:
    """The merge patch that puts back what a Node of ours lacks; other people's taints stay."""
    labels = node.get("metadata", {}).get("labels") or {}
    missing = {k: v for k, v in node_labels(facts).items() if labels.get(k) != v}
    taints = (node.get("spec") or {}).get("taints") or []
    patch: JsonObject = {"metadata": {"labels": missing}} if missing else {}
    if not any(_is_ours(taint) for taint in taints):
        patch["spec"] = {"taints": [*taints, _TAINT]}
    return patch or None


def _is_ours(taint: JsonObject) -> bool:
    return all(taint.get(member) == value for member, value in _TAINT.items())


def node_status(facts: NodeFacts, before: JsonObject, problem: str, now: datetime) -> JsonObject:
    """Its status. before: as on the server. problem: why no machine can be started, or empty."""
    amounts = {
        "cpu": str(facts.cpus),
        "memory": f"{facts.memory_bytes // 1024}Ki",
        "pods": str(facts.pods),
    }
    return {
        "capacity": amounts,
        "allocatable": amounts,
        "addresses": [
            {"type": "InternalIP", "address": facts.address},
            {"type": "Hostname", "address": facts.name},
        ],
        "conditions": _conditions(before, problem, now),
        "nodeInfo": {
            "machineID": facts.machine_id,
            "systemUUID": facts.machine_id,
            "bootID": facts.boot_id,
            "kernelVersion": facts.kernel,
            "osImage": facts.os_image,
            "containerRuntimeVersion": f"snapstart://{facts.version}",
            "kubeletVersion": f"v0.0.0-snapstart-{facts.version}",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": facts.architecture,
        },
    }


def is_same_status(before: JsonObject, wanted: JsonObject) -> bool:
    """Equal but for the times."""
    return all(_timeless(before.get(key)) == _timeless(value) for key, value in wanted.items())


def _timeless(value: object) -> object:
    if isinstance(value, list):
        return [_timeless(one) for one in value]
    if isinstance(value, dict):
        skipped = ("lastHeartbeatTime", "lastTransitionTime", "swap")
        return {key: _timeless(one) for key, one in value.items() if key not in skipped}
    return value


def _conditions(before: JsonObject, problem: str, now: datetime) -> list[JsonObject]:
    found = {str(one.get("type")): one for one in before.get("conditions") or ()}
    ready = ("False", "EngineNotReady", problem) if problem else ("True", "EngineReady", "")
    wanted = {"Ready": ready, **dict.fromkeys(_PRESSURES, ("False", "NotMeasured", ""))}
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}"
    conditions = []
    for kind, (status, reason, message) in wanted.items():
        old = found.get(kind) or {}
        since = old.get("lastTransitionTime") if old.get("status") == status else None
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": stamp,
                "lastTransitionTime": since or stamp,
            }
        )
    others = [one for kind, one in found.items() if kind not in wanted]
    return conditions + others
