"""Choose what an event about a Pod is attached to."""

from __future__ import annotations

from controlplane.kube.cache import Named
from controlplane.kube.events import ObjectRef, reference
from controlplane.kube.resource import PODS


def subject_of(pod: Named) -> ObjectRef:
    """Where people look: its Sandbox if it has one, else the Pod itself."""
    meta = pod.metadata
    owner = meta.controller
    if owner is None or owner.kind != "Sandbox":
        return reference(PODS, pod)
    return ObjectRef(owner.api_version, owner.kind, owner.name, meta.namespace, owner.uid)
