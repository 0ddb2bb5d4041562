"""Tell how a Pod's machine came to be."""

from __future__ import annotations

from dataclasses import dataclass

from agentd.node.pod_start import PodHost
from agentd.node.pod_subject import subject_of
from agentd.node.pod_types import Pod
from controlplane.api import names


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
    about = subject_of(pod)
    if origin.started_from == names.FROM_SNAPSHOT:
        host.events.normal(about, "SandboxRestoredFromSnapshot", message)
    elif origin.reason:
        host.events.warning(about, "SandboxRestoreFallback", message)
