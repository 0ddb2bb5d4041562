"""Tell how a Pod's machine came to be."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.node.pod_start import PodHost
from agentd.node.pod_types import Pod
from controlplane.api import names
from controlplane.kube.events import ObjectRef, reference
from controlplane.kube.resource import PODS


@dataclass(frozen=True)
class Origin:
    """From what a machine was started. reason: why it is cold although a restore was asked for."""

    started_from: str = ""
    reason: str = ""
    message: str = ""


def tell_origin(host: PodHost, pod: Pod, origin: Origin, message: str) -> None:
    """For the Sandbox, where people look; of a plain cold start there is nothing to tell."""
    host.tracer.step(
        "pod.started", pod=pod.metadata.name, start=origin.started_from, reason=origin.reason
    )
    about = _about(pod)
    if origin.started_from == names.FROM_SNAPSHOT:
        host.events.normal(about, "SandboxRestoredFromSnapshot", message)
    elif origin.reason:
        host.events.warning(about, "SandboxRestoreFallback", message)


def _about(pod: Pod) -> ObjectRef:
    meta = pod.metadata
    owner = meta.controller
    if owner is None or owner.kind != "Sandbox":
        return reference(PODS, pod)
    return ObjectRef(owner.api_version, owner.kind, owner.name, meta.namespace, owner.uid)
