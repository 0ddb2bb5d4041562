"""A template, its class, a node: as small as they get."""

from __future__ import annotations

from typing import Any

from controlplane.api.core import (
    Node,
    NodeSpec,
    NodeStatus,
    PodTemplate,
    PodTemplateMetadata,
    SandboxSpec,
    SandboxTemplate,
    SandboxTemplateSpec,
    Taint,
)
from controlplane.api.meta import Condition, JsonObject, ObjectMeta
from controlplane.api.types import SnapshotClass, SnapshotClassSpec, SnapshotMode

PROVIDER = "snapstart.qemu.org"
LABEL = f"agentcube.volcano.sh/snapshot-provider.{PROVIDER}"


def pod_spec(**members: Any) -> JsonObject:
    """One container; members are those of a PodSpec."""
    return {"containers": [{"name": "code", "image": "python@sha256:1"}], **members}


def container(**members: Any) -> JsonObject:
    """A pod spec whose container has these members."""
    return pod_spec(containers=[{"name": "code", "image": "python@sha256:1", **members}])


def template(spec: JsonObject | None = None, **members: Any) -> SandboxTemplate:
    """members: of the template's spec, or labels, annotations of its pod template."""
    metadata = PodTemplateMetadata(
        labels=members.pop("labels", None), annotations=members.pop("annotations", None)
    )
    return SandboxTemplate(
        metadata=ObjectMeta(name="python", namespace="team", uid="template-uid", generation=4),
        spec=SandboxTemplateSpec(
            pod_template=PodTemplate(spec=spec or pod_spec(), metadata=metadata), **members
        ),
    )


def session(spec: JsonObject | None = None, **metadata: Any) -> SandboxSpec:
    """A session's Sandbox with labels, annotations."""
    return SandboxSpec(
        pod_template=PodTemplate(spec=spec or pod_spec(), metadata=PodTemplateMetadata(**metadata))
    )


def snapshot_class(name: str = "qemu", **members: Any) -> SnapshotClass:
    """A class of the provider."""
    spec = {
        "provider_name": PROVIDER,
        "supported_snapshot_modes": (SnapshotMode.FORK,),
        **members,
    }
    return SnapshotClass(metadata=ObjectMeta(name=name), spec=SnapshotClassSpec(**spec))


def node(name: str = "node-a", ready: str = "True", **members: Any) -> Node:
    """An eligible node. labels: added. taints: (key, value, effect). unschedulable."""
    labels = {LABEL: "true", **members.get("labels", {})}
    taints = tuple(Taint(key=k, value=v, effect=e) for k, v, e in members.get("taints", ()))
    return Node(
        metadata=ObjectMeta(name=name, labels=labels),
        spec=NodeSpec(unschedulable=members.get("unschedulable", False), taints=taints or None),
        status=NodeStatus(conditions=(Condition(type="Ready", status=ready),)),
    )
