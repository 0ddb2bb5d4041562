"""A stand-in for the container runtime that starts a sandboxer's Pods: CRI, `runtime.v1`.

Deviation: `ListPodSandbox` is all that it answers, and of a filter's labels those of the Pod's
name, namespace and UID are all that there are.
"""

from __future__ import annotations

from collections.abc import Mapping

from agentd.kuasar.cri import SERVICE
from agentd.kuasar.pb import cri_pb2

from .grpc_server import GrpcServer, Method
from .sandboxer import Sandbox, Sandboxer


class FakeCri(GrpcServer):
    """Knows the sandboxes of one `Sandboxer`, and `others`, which are of another runtime class.

    attempts: of a sandbox, by its id; 0 if it is not there.
    """

    def __init__(self, sandboxer: Sandboxer) -> None:
        super().__init__()
        self.sandboxer = sandboxer
        self.others: list[cri_pb2.PodSandbox] = []
        self.attempts: dict[str, int] = {}

    def methods(self) -> Mapping[str, Method]:
        """One."""
        return {f"/{SERVICE}/ListPodSandbox": Method(cri_pb2.ListPodSandboxRequest, self._list)}

    async def _list(self, request: cri_pb2.ListPodSandboxRequest) -> cri_pb2.ListPodSandboxResponse:
        """It knows its Pods while the sandboxer recovers, too."""
        found = [self._view(one) for one in self.sandboxer.sandboxes.values()] + self.others
        return cri_pb2.ListPodSandboxResponse(
            items=[one for one in found if _matches(one, request.filter)]
        )

    def _view(self, one: Sandbox) -> cri_pb2.PodSandbox:
        """A sandbox that the sandboxer calls paused is ready all the same. (R)"""
        is_ready = one.status != "stopped"
        return cri_pb2.PodSandbox(
            id=one.id,
            metadata=cri_pb2.PodSandboxMetadata(
                name=one.name,
                uid=one.pod_uid,
                namespace=one.namespace,
                attempt=self.attempts.get(one.id, 0),
            ),
            state=cri_pb2.SANDBOX_READY if is_ready else cri_pb2.SANDBOX_NOTREADY,
            created_at=one.created_at_secs * 10**9,
            labels={
                "io.kubernetes.pod.name": one.name,
                "io.kubernetes.pod.namespace": one.namespace,
                "io.kubernetes.pod.uid": one.pod_uid,
            },
            annotations=dict(one.annotations),
            runtime_handler="kuasar-vmm",
        )


def _matches(one: cri_pb2.PodSandbox, wanted: cri_pb2.PodSandboxFilter) -> bool:
    """Everything that a filter names must hold."""
    if wanted.id and one.id != wanted.id:
        return False
    if wanted.HasField("state") and one.state != wanted.state.state:
        return False
    return all(one.labels.get(name) == value for name, value in wanted.label_selector.items())
