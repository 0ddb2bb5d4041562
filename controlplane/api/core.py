"""Define the part of other people's objects that is read here."""

from __future__ import annotations

from datetime import datetime

import msgspec

from controlplane.api.meta import Camel, Condition, JsonObject, ObjectMeta


class Taint(Camel, frozen=True):
    """A node's taint."""

    key: str = ""
    value: str = ""
    effect: str = ""


class NodeSpec(Camel, frozen=True):
    """The scheduling part of a Node."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] | None = None


class NodeStatus(Camel, frozen=True):
    """The part of a Node's status that is read here."""

    conditions: tuple[Condition, ...] | None = None


class Node(Camel, frozen=True):
    """A node of the cluster."""

    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> Condition | None:
        """Its Ready condition."""
        return next((c for c in self.status.conditions or () if c.type == "Ready"), None)


class PodTemplateMetadata(Camel, frozen=True):
    """Labels and annotations that a Sandbox hands to its Pod."""

    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class PodTemplate(Camel, frozen=True):
    """spec: a PodSpec as it was read, never altered."""

    spec: JsonObject = {}
    metadata: PodTemplateMetadata = PodTemplateMetadata()


class SandboxTemplateSpec(Camel, frozen=True):
    """What SnapStart reads of a template."""

    pod_template: PodTemplate = PodTemplate()
    volume_claim_templates: tuple[JsonObject, ...] | None = None
    network_policy: JsonObject | None = None
    network_policy_management: str = ""

    @property
    def has_default_network(self) -> bool:
        """agent-sandbox manages the network, and the author gave no rules of their own."""
        is_managed = self.network_policy_management in ("", "Managed")
        return is_managed and self.network_policy is None


class SandboxTemplate(Camel, frozen=True):
    """agent-sandbox's template of Sandboxes; no difference between v1alpha1 and v1beta1 here."""

    metadata: ObjectMeta
    spec: SandboxTemplateSpec = SandboxTemplateSpec()


class SandboxSpec(Camel, frozen=True):
    """What SnapStart reads of a Sandbox, in either version."""

    pod_template: PodTemplate = PodTemplate()
    volume_claim_templates: tuple[JsonObject, ...] | None = None
    shutdown_time: datetime | None = None
    replicas: int | None = None  # v1alpha1
    operating_mode: str = ""  # v1beta1


class SandboxStatus(Camel, frozen=True):
    """What SnapStart reads of a Sandbox's status."""

    conditions: tuple[Condition, ...] | None = None
    pod_ips: tuple[str, ...] | None = msgspec.field(name="podIPs", default=None)
    node_name: str = ""


class Sandbox(Camel, frozen=True):
    """agent-sandbox's Sandbox."""

    metadata: ObjectMeta
    spec: SandboxSpec = SandboxSpec()
    status: SandboxStatus = SandboxStatus()

    def condition(self, kind: str) -> Condition | None:
        """One of its conditions."""
        return next((c for c in self.status.conditions or () if c.type == kind), None)

    @property
    def is_ready(self) -> bool:
        """Its Pod runs and is ready."""
        condition = self.condition("Ready")
        return condition is not None and condition.status == "True"


class ContainerStateWaiting(Camel, frozen=True):
    """Why a container does not run yet."""

    reason: str = ""
    message: str = ""


class ContainerState(Camel, frozen=True):
    """What a container does; only that it waits is read."""

    waiting: ContainerStateWaiting | None = None


class ContainerStatus(Camel, frozen=True):
    """The part of a container's status that is read."""

    state: ContainerState = ContainerState()


class PodStatus(Camel, frozen=True):
    """The part of a Pod's status that SnapStart reads."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None
    pod_ip: str = msgspec.field(name="podIP", default="")


class Pod(Camel, frozen=True):
    """A Pod; spec as it was read."""

    metadata: ObjectMeta
    spec: JsonObject = {}
    status: PodStatus = PodStatus()

    @property
    def node_name(self) -> str:
        """Where it is bound to, empty if nowhere."""
        return str(self.spec.get("nodeName") or "")


class RuntimeClassScheduling(Camel, frozen=True):
    """What a RuntimeClass demands of nodes."""

    node_selector: dict[str, str] | None = None
    tolerations: tuple[JsonObject, ...] | None = None


class RuntimeClass(Camel, frozen=True):
    """How Pods are run."""

    metadata: ObjectMeta
    handler: str = ""
    scheduling: RuntimeClassScheduling | None = None


class LeaseSpec(Camel, frozen=True):
    """Who holds a Lease, until when."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: datetime | None = None
    renew_time: datetime | None = None
    lease_transitions: int | None = None


class Lease(Camel, frozen=True):
    """coordination.k8s.io/v1."""

    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()
