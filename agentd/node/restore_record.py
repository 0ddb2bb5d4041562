"""Write on a Pod how it started, count it, tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentd.engine.trace import Tracer
from agentd.node.restore_evidence import Result, Verdict
from agentd.node.restore_pods import SessionPod
from agentd.node.stuck_pod import Waiting
from controlplane.api import names
from controlplane.kube.api import KubeApi
from controlplane.kube.recorder import EventRecorder
from controlplane.kube.resource import PODS

# The reason on a cold Pod once it is known to wait in vain.
WAITS: Final = "waits_for_injection"
# The control plane says the same of every session: nothing on a Pod tells of another kind.
RUNTIME_KIND: Final = "CodeInterpreter"


@dataclass(frozen=True)
class Report:
    """What is written on a Pod, then told: about its start, or, if there is a sign, its waiting."""

    verdict: Verdict
    sign: Waiting | None = None

    @property
    def annotations(self) -> dict[str, str | None]:
        """What the Pod is to carry, None: not."""
        return {
            names.STARTED_FROM: self.verdict.started_from,
            names.STARTED_FROM_REASON: self.verdict.reason or None,
        }

    def is_on(self, pod: SessionPod) -> bool:
        """The Pod carries it."""
        found = pod.metadata.annotations or {}
        return all(found.get(key) == value for key, value in self.annotations.items())


def report_waiting(pod: SessionPod, sign: Waiting, stuck_s: float) -> Report:
    """What to say of a cold Pod that waits, or may."""
    name, key = pod.metadata.name, pod.restore_key
    if sign is Waiting.CERTAIN:
        message = (
            f"Pod {name} waits for an injection that will never come: it started cold, and its "
            f"guest keeps its gate closed after {stuck_s:g} s; delete it when snapshot {key!r} is "
            "there, as kuasar.replace_stuck does, or let its image stop waiting by itself"
        )
    else:
        message = (
            f"Pod {name} may wait for an injection that will never come: it started cold, is not "
            f"Ready after {stuck_s:g} s, and its guest does not say whether its gate is closed; "
            "look at its log, and delete it if it waits"
        )
    return Report(Verdict(Result.COLD_START, WAITS, message), sign)


class Recorder:
    """Acts on reports."""

    def __init__(
        self, kube: KubeApi, events: EventRecorder, tracer: Tracer, node_name: str
    ) -> None:
        self._kube = kube
        self._events = events
        self._tracer = tracer
        self._node_name = node_name

    async def write(self, pod: SessionPod, report: Report) -> None:
        """On the version of the Pod that the report is about. Raises: ControlPlaneError."""
        meta = pod.metadata
        patch = {
            "metadata": {
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
                "annotations": report.annotations,
            }
        }
        await self._kube.merge(PODS, meta.name, patch, namespace=meta.namespace)

    def tell(self, pod: SessionPod, report: Report) -> None:
        """Count it, and tell people but for what is not known."""
        if report.sign is not None:
            self._tell_waiting(pod, report, report.sign)
        else:
            self._tell_start(pod, report.verdict)

    def _tell_waiting(self, pod: SessionPod, report: Report, sign: Waiting) -> None:
        self._tracer.step("pod.stuck", **self._ids(pod), sign=sign.value)
        self._events.warning(pod.subject, "SandboxRestoreFallback", report.verdict.message)

    def _tell_start(self, pod: SessionPod, verdict: Verdict) -> None:
        self._tracer.step(
            "pod.restore",
            **self._ids(pod),
            result=verdict.result.value,
            reason=verdict.reason,
            runtime_kind=RUNTIME_KIND,
            message=verdict.message,
        )
        name, key = pod.metadata.name, pod.restore_key
        if verdict.result is Result.RESTORE:
            message = f"Pod {name} was restored from snapshot {key!r}"
            self._events.normal(pod.subject, "SandboxRestoredFromSnapshot", message)
        elif verdict.result is Result.COLD_START:
            message = f"Pod {name} was to be restored, and started cold: {verdict.message}"
            self._events.warning(pod.subject, "SandboxRestoreFallback", message)

    def _ids(self, pod: SessionPod) -> dict[str, str]:
        meta = pod.metadata
        return {
            "node": self._node_name,
            "namespace": meta.namespace,
            "pod": meta.name,
            "uid": meta.uid,
            "key": pod.restore_key,
        }
