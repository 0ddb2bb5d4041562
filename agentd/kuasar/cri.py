"""Ask a container runtime which sandbox is a Pod's (CRI, `runtime.v1`).

Importing this module imports grpc and protobuf: only what asks a runtime should do so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError, UsageError
from agentd.kuasar.client import PodRef
from agentd.kuasar.grpc_socket import GrpcSocket, StatusCode
from agentd.kuasar.pb import cri_pb2

SERVICE: Final = "runtime.v1.RuntimeService"
_UID_LABEL: Final = "io.kubernetes.pod.uid"
_SHOWN: Final = 500


class Cri:
    """Implements `agentd.kuasar.client.PodSandboxes`.

    Args: path: the runtime's socket. call_s: seconds for one call.
    """

    def __init__(self, path: Path, *, call_s: float = 10.0) -> None:
        self._call_s = call_s
        self._runtime = GrpcSocket(
            path,
            SERVICE,
            peer="the container runtime",
            setting="kuasar.cri_socket",
            refusal=_refused,
        )

    async def sandbox_of(self, pod: PodRef) -> str:
        """See PodSandboxes. Of several attempts the newest."""
        what = f"asking the container runtime for the sandbox of {pod}"
        if not pod.uid:
            raise UsageError(ErrorCode.REQUEST_INVALID, f"{what}: without a UID it cannot be told")
        # Checked again: a runtime may leave alone what it does not know of a filter.
        found = [one for one in await self._live(what, pod.uid) if one.metadata.uid == pod.uid]
        if not found:
            raise TransientError(
                ErrorCode.GUEST_NOT_READY,
                f"{what}: it has none that is ready",
                hint="look at the Pod: it does not run, or not on this node",
            )
        return max(found, key=lambda one: (one.metadata.attempt, one.created_at)).id

    async def pod_uids(self) -> dict[str, str]:
        """See PodSandboxes."""
        found = await self._live("asking the container runtime for its sandboxes", "")
        return {one.id: one.metadata.uid for one in found}

    async def _live(self, what: str, uid: str) -> list[cri_pb2.PodSandbox]:
        """Those that are ready. uid: of one Pod; empty: all."""
        ready = cri_pb2.PodSandboxStateValue(state=cri_pb2.SANDBOX_READY)
        labels = {_UID_LABEL: uid} if uid else {}
        wanted = cri_pb2.PodSandboxFilter(state=ready, label_selector=labels)
        reply = await self._runtime.call(
            what,
            "ListPodSandbox",
            cri_pb2.ListPodSandboxRequest(filter=wanted),
            cri_pb2.ListPodSandboxResponse,
            deadline_s=self._call_s,
        )
        return [one for one in reply.items if one.state == cri_pb2.SANDBOX_READY]


def _refused(what: str, code: StatusCode, said: str) -> SnapStartError:
    return PeerError(
        ErrorCode.PROVIDER_FAILED,
        f"{what}: it said {code.name} {said[:_SHOWN]!r}",
        hint="look at the container runtime's log",
    )
