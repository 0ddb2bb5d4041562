"""Drive a sandboxer that snapshots by gRPC (`ssi.v1alpha1`), with an admin socket beside.

Importing this module imports grpc and protobuf: only what speaks this form should do so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import ErrorCode, SnapStartError, TransientError, UsageError
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import Form, KuasarSandbox, KuasarTemplate, PodRef, PoolStatus
from agentd.kuasar.failures import SANDBOXER, kuasar_error, no_answer
from agentd.kuasar.grpc_socket import GrpcSocket, StatusCode
from agentd.kuasar.names import require_key
from agentd.kuasar.pb import sandbox_pb2, ssi_pb2
from agentd.kuasar.pool import read_pool
from controlplane.api.types import SnapshotMode

SNAPSHOTS: Final = "ssi.v1alpha1.SandboxSnapshotController"
SANDBOXES: Final = "kuasar.sandbox.v1.SandboxController"
_MODES: Final[dict[int, SnapshotMode]] = {
    ssi_pb2.FORK: SnapshotMode.FORK,
    ssi_pb2.RESUME: SnapshotMode.RESUME,
}


@dataclass(frozen=True)
class PluginInfo:
    """How a sandboxer announces itself; not the provider's name in a SnapshotClass."""

    name: str
    version: str


async def read_plugin_info(path: Path, *, deadline_s: float) -> PluginInfo:
    """Ask a socket who serves it; an answer means that it speaks this form.

    Raises: TransientError PROVIDER_UNREACHABLE, DEADLINE_EXCEEDED; ConfigError PERMISSION_DENIED,
    CONFIG_INVALID; PeerError PROVIDER_PROTOCOL: it serves something else; PROVIDER_FAILED.
    """
    what = f"asking {str(path)!r} who serves it"
    request = ssi_pb2.GetPluginInfoRequest()
    reply = await _socket(path, SNAPSHOTS).call(
        what, "GetPluginInfo", request, ssi_pb2.GetPluginInfoResponse, deadline_s=deadline_s
    )
    if not reply.name:
        raise no_answer(what, "no name")
    return PluginInfo(reply.name, reply.version)


class Ssi:
    """Implements `agentd.kuasar.client.KuasarClient`.

    Args: path: the gRPC socket. admin: of the same sandboxer; it alone tells of the pool, so that
    `modes` and `pool` fail without it. create_s, call_s: seconds for a snapshot, for anything else.
    """

    form = Form.GRPC

    def __init__(
        self, path: Path, admin: AdminSocket, *, create_s: float = 600.0, call_s: float = 30.0
    ) -> None:
        self._snapshots = _socket(path, SNAPSHOTS)
        self._sandboxes = _socket(path, SANDBOXES)
        self._admin = admin
        self._create_s = create_s
        self._call_s = call_s

    async def modes(self) -> frozenset[SnapshotMode]:
        """See KuasarClient. Fork at most, the only one that `create` makes.

        What the sandboxer calls its capabilities is the same on every node; its pool is not.
        """
        what = f"asking for the capabilities by {self.form}"
        reply = await self._snapshots.call(
            what,
            "GetPluginCapabilities",
            ssi_pb2.GetPluginCapabilitiesRequest(),
            ssi_pb2.GetPluginCapabilitiesResponse,
            deadline_s=self._call_s,
        )
        await self.pool()
        can_fork = any(one.type == ssi_pb2.PLUGIN_FORK for one in reply.capabilities)
        return frozenset({SnapshotMode.FORK}) if can_fork else frozenset()

    async def pool(self) -> PoolStatus:
        """See KuasarClient."""
        return await read_pool(self._admin, f"asking for the pool's status by {self.form}")

    async def sandboxes(self) -> list[KuasarSandbox]:
        """See KuasarClient. From the list: asked for one, it calls every sandbox a restored one."""
        reply = await self._sandboxes.call(
            f"listing sandboxes by {self.form}",
            "ListSandboxes",
            sandbox_pb2.ListSandboxesRequest(),
            sandbox_pb2.ListSandboxesResponse,
            deadline_s=self._call_s,
        )
        return [_sandbox(one) for one in reply.sandboxes]

    async def create(self, pod: PodRef, key: str, mode: SnapshotMode) -> None:
        """See KuasarClient. Fork alone: a Resume snapshot that has a name cannot be restored."""
        what = f"creating {key!r} of {pod} by {self.form}"
        require_key(key)
        if mode is not SnapshotMode.FORK:
            raise _no_resume(what, mode)
        request = ssi_pb2.CreateSandboxSnapshotRequest(
            pod_uid=pod.uid or await self._uid_of(what, pod), snapshot_name=key, mode=ssi_pb2.FORK
        )
        reply = await self._snapshots.call(
            what,
            "CreateSandboxSnapshot",
            request,
            ssi_pb2.CreateSandboxSnapshotResponse,
            deadline_s=self._create_s,
        )
        made = reply.snapshot
        if made.snapshot_name != key or made.mode != ssi_pb2.FORK:
            got = f"a snapshot {made.snapshot_name[:80]!r} of mode {made.mode}"
            raise no_answer(what, f"{got}, which answers something else")

    async def _uid_of(self, what: str, pod: PodRef) -> str:
        """Of the Pod of a sandbox: this form takes no other name for one."""
        if not pod.sandbox_id:
            raise UsageError(ErrorCode.REQUEST_INVALID, f"{what}: neither UID nor sandbox is known")
        for one in await self.sandboxes():
            if one.sandbox_id == pod.sandbox_id and one.pod_uid:
                return one.pod_uid
        raise TransientError(
            ErrorCode.PROVIDER_UNREACHABLE,
            f"{what}: the Kuasar sandboxer lists no sandbox {pod.sandbox_id!r}",
            hint="it does not know it yet, or was restarted; this passes",
        )

    async def find(self, key: str) -> list[KuasarTemplate]:
        """See KuasarClient. In no order: this form does not tell which is the newest.

        From the list: asked for one name, it also answers with a bare machine of that name.
        """
        require_key(key)
        return [one for one in await self.list() if one.key == key]

    async def list(self) -> list[KuasarTemplate]:
        """See KuasarClient. One for each template, so that a key may come more than once."""
        reply = await self._snapshots.call(
            f"listing snapshots by {self.form}",
            "ListSandboxSnapshots",
            ssi_pb2.ListSandboxSnapshotsRequest(mode=ssi_pb2.UNSPECIFIED),
            ssi_pb2.ListSandboxSnapshotsResponse,
            deadline_s=self._call_s,
        )
        return [KuasarTemplate(one.snapshot_name, _MODES.get(one.mode)) for one in reply.snapshots]

    async def remove(self, template: KuasarTemplate) -> None:
        """See KuasarClient. Takes one of its key, whichever; says yes even if it took none."""
        what = f"removing {template.key!r} by {self.form}"
        if template.mode is not SnapshotMode.FORK:
            raise UsageError(ErrorCode.REQUEST_INVALID, f"{what}: it is no snapshot of mode Fork")
        require_key(template.key)
        await self._snapshots.call(
            what,
            "DeleteSandboxSnapshot",
            ssi_pb2.DeleteSandboxSnapshotRequest(snapshot_name=template.key),
            ssi_pb2.DeleteSandboxSnapshotResponse,
            deadline_s=self._call_s,
        )


def _socket(path: Path, service: str) -> GrpcSocket:
    return GrpcSocket(
        path,
        service,
        peer=SANDBOXER,
        setting="kuasar.grpc_socket",
        refusal=_refused,
    )


def _refused(what: str, code: StatusCode, said: str) -> SnapStartError:
    """By its words as far as they are known; nearly all of them come with INTERNAL."""
    found = kuasar_error(what, said)
    if found.code is not ErrorCode.PROVIDER_FAILED:
        return found
    if code is StatusCode.NOT_FOUND:
        return UsageError(ErrorCode.TEMPLATE_NOT_FOUND, found.message)
    if code is StatusCode.INVALID_ARGUMENT:
        return UsageError(ErrorCode.REQUEST_INVALID, found.message)
    return found


def _sandbox(one: sandbox_pb2.Sandbox) -> KuasarSandbox:
    is_restored = one.snapshot_mode != sandbox_pb2.UNSPECIFIED
    return KuasarSandbox(one.sandbox_id, one.pod_uid, one.status, is_restored)


def _no_resume(what: str, mode: SnapshotMode) -> SnapStartError:
    return UsageError(
        ErrorCode.REQUEST_INVALID,
        f"{what}: this form cannot restore a snapshot of mode {mode.value} that has a name, and "
        "keeps one without a name for its own Pod alone",
        hint="use mode Fork",
    )
