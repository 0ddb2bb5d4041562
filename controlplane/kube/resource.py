"""Name the kinds of objects that are read or written here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from controlplane.api import names


@dataclass(frozen=True)
class Resource:
    """One kind, in one version. group: empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As it stands in an object."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path; without a namespace, of all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"/namespaces/{namespace}" if namespace and self.is_namespaced else ""
        tail = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{root}{inside}/{self.plural}{tail}"

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


def _ours(plural: str, kind: str, *, is_namespaced: bool = True) -> Resource:
    return Resource(names.GROUP, names.VERSION, plural, kind, is_namespaced)


SNAPSHOT_CLASSES: Final = _ours("snapshotclasses", "SnapshotClass", is_namespaced=False)
SNAPSHOTS: Final = _ours("sandboxsnapshots", "SandboxSnapshot")
TASKS: Final = _ours("sandboxsnapshottasks", "SandboxSnapshotTask")
CODE_INTERPRETERS: Final = _ours("codeinterpreters", "CodeInterpreter")

NODES: Final = Resource("", "v1", "nodes", "Node", is_namespaced=False)
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", is_namespaced=False)
PODS: Final = Resource("", "v1", "pods", "Pod")
SECRETS: Final = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
EVENTS: Final = Resource("", "v1", "events", "Event")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")
RUNTIME_CLASSES: Final = Resource(
    "node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", is_namespaced=False
)
MUTATING_WEBHOOKS: Final = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
    "MutatingWebhookConfiguration",
    is_namespaced=False,
)
VALIDATING_WEBHOOKS: Final = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingwebhookconfigurations",
    "ValidatingWebhookConfiguration",
    is_namespaced=False,
)


def sandboxes(version: str) -> Resource:
    """agent-sandbox's Sandbox; version: v1alpha1 or v1beta1, as discovered."""
    return Resource(names.SANDBOX_GROUP, version, "sandboxes", "Sandbox")


def sandbox_templates(version: str) -> Resource:
    """agent-sandbox's SandboxTemplate."""
    return Resource(names.EXTENSIONS_GROUP, version, "sandboxtemplates", "SandboxTemplate")


def sandbox_warm_pools(version: str) -> Resource:
    """agent-sandbox's SandboxWarmPool."""
    return Resource(names.EXTENSIONS_GROUP, version, "sandboxwarmpools", "SandboxWarmPool")
