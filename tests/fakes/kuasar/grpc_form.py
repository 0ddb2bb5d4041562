"""A stand-in for a sandboxer that snapshots by gRPC: `ssi.v1alpha1`, `kuasar.sandbox.v1`.

Marks as in `sandboxer`. Deviations:
- Snapshots of mode Resume, PauseSandbox and ResumeSandbox are refused as on a node without a store
  for them.
- An unreadable request is INTERNAL with other words.
- Of the limits on messages, tonic's are not those of this server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from agentd.kuasar.pb import sandbox_pb2, ssi_pb2
from agentd.kuasar.ssi import SANDBOXES, SNAPSHOTS

from .grpc_server import GrpcServer, Method, StatusError
from .sandboxer import WARM_FORK, RefusedError, Sandbox, Sandboxer, Template

PLUGIN = "kuasar-vmm-snapshot"
VERSION = "0.9.0-stand-in"
_NO_SLASH = (
    "snapshot_name must not contain '/'; "
    "that separator is reserved for auto-generated continuation keys"
)


class GrpcForm(GrpcServer):
    """Serves one `Sandboxer`. A call whose client leaves is broken off where it is. (I)"""

    def __init__(self, sandboxer: Sandboxer) -> None:
        super().__init__()
        self.sandboxer = sandboxer

    def methods(self) -> Mapping[str, Method]:
        """Of both services."""
        snapshots = {
            "GetPluginInfo": Method(ssi_pb2.GetPluginInfoRequest, self._info),
            "GetPluginCapabilities": Method(
                ssi_pb2.GetPluginCapabilitiesRequest, self._capabilities
            ),
            "Probe": Method(ssi_pb2.ProbeRequest, self._probe),
            "CreateSandboxSnapshot": Method(ssi_pb2.CreateSandboxSnapshotRequest, self._create),
            "DeleteSandboxSnapshot": Method(ssi_pb2.DeleteSandboxSnapshotRequest, self._delete),
            "ListSandboxSnapshots": Method(ssi_pb2.ListSandboxSnapshotsRequest, self._list),
            "GetSandboxSnapshot": Method(ssi_pb2.GetSandboxSnapshotRequest, self._get),
        }
        sandboxes = {
            "ListSandboxes": Method(sandbox_pb2.ListSandboxesRequest, self._sandboxes),
            "GetSandbox": Method(sandbox_pb2.GetSandboxRequest, self._sandbox),
            "PauseSandbox": Method(sandbox_pb2.PauseSandboxRequest, self._pause),
            "ResumeSandbox": Method(sandbox_pb2.ResumeSandboxRequest, self._resume),
        }
        return {f"/{SNAPSHOTS}/{name}": method for name, method in snapshots.items()} | {
            f"/{SANDBOXES}/{name}": method for name, method in sandboxes.items()
        }

    # -- introspection: constants (R) -------------------------------------------------------

    async def _info(self, _request: ssi_pb2.GetPluginInfoRequest) -> ssi_pb2.GetPluginInfoResponse:
        return ssi_pb2.GetPluginInfoResponse(name=PLUGIN, version=VERSION)

    async def _capabilities(
        self, _request: ssi_pb2.GetPluginCapabilitiesRequest
    ) -> ssi_pb2.GetPluginCapabilitiesResponse:
        kinds = (ssi_pb2.PLUGIN_FORK, ssi_pb2.PLUGIN_RESUME)
        return ssi_pb2.GetPluginCapabilitiesResponse(
            capabilities=[ssi_pb2.PluginCapability(type=kind) for kind in kinds]
        )

    async def _probe(self, _request: ssi_pb2.ProbeRequest) -> ssi_pb2.ProbeResponse:
        return ssi_pb2.ProbeResponse(ready=True)

    # -- snapshots --------------------------------------------------------------------------

    async def _create(
        self, request: ssi_pb2.CreateSandboxSnapshotRequest
    ) -> ssi_pb2.CreateSandboxSnapshotResponse:
        """In this order; every mode but Resume is Fork; the reply echoes the request. (R)"""
        if not request.pod_uid:
            raise StatusError("INVALID_ARGUMENT", "pod_uid is required")
        if "/" in request.snapshot_name:
            raise StatusError("INVALID_ARGUMENT", _NO_SLASH)
        sandbox = self.sandboxer.of_pod(request.pod_uid)
        if request.mode == ssi_pb2.RESUME:
            raise RefusedError("continuation store not configured")
        if not request.snapshot_name:
            raise StatusError("INVALID_ARGUMENT", "snapshot_name is required for fork mode")
        await self.sandboxer.create_fork(sandbox, request.snapshot_name)
        made = ssi_pb2.SandboxSnapshot(
            pod_uid=request.pod_uid, snapshot_name=request.snapshot_name, mode=ssi_pb2.FORK
        )
        return ssi_pb2.CreateSandboxSnapshotResponse(snapshot=made)

    async def _delete(
        self, request: ssi_pb2.DeleteSandboxSnapshotRequest
    ) -> ssi_pb2.DeleteSandboxSnapshotResponse:
        """OK whatever comes of it: the lowest id of a key alone, even if it has to stay. (M)"""
        if not request.snapshot_name:
            raise StatusError("INVALID_ARGUMENT", "snapshot_name is required")
        found = [one for one in self._templates() if one.key == request.snapshot_name]
        if found and found[0].snapshot_type == WARM_FORK:
            with contextlib.suppress(RefusedError):
                self.sandboxer.remove(found[0])
        return ssi_pb2.DeleteSandboxSnapshotResponse()

    def _templates(self) -> list[Template]:
        return sorted(self.sandboxer.templates.values(), key=lambda one: one.template_id)

    async def _list(
        self, request: ssi_pb2.ListSandboxSnapshotsRequest
    ) -> ssi_pb2.ListSandboxSnapshotsResponse:
        """One for each template, without a UID; never a bare machine. (R)"""
        found = [one for one in self._templates() if one.snapshot_type == WARM_FORK]
        if request.mode == ssi_pb2.RESUME:
            found = []
        return ssi_pb2.ListSandboxSnapshotsResponse(snapshots=[_snapshot(one) for one in found])

    async def _get(
        self, request: ssi_pb2.GetSandboxSnapshotRequest
    ) -> ssi_pb2.GetSandboxSnapshotResponse:
        """Finds a bare machine too, and calls it a Fork. (R)"""
        if not request.snapshot_name:
            raise StatusError("INVALID_ARGUMENT", "snapshot_name is required")
        for one in self._templates():
            if one.key == request.snapshot_name:
                return ssi_pb2.GetSandboxSnapshotResponse(snapshot=_snapshot(one))
        raise StatusError("NOT_FOUND", f"snapshot '{request.snapshot_name}' not found")

    # -- sandboxes --------------------------------------------------------------------------

    async def _sandboxes(
        self, _request: sandbox_pb2.ListSandboxesRequest
    ) -> sandbox_pb2.ListSandboxesResponse:
        found = [_sandbox(one, is_listed=True) for one in await self.sandboxer.listed()]
        return sandbox_pb2.ListSandboxesResponse(sandboxes=found)

    async def _sandbox(
        self, request: sandbox_pb2.GetSandboxRequest
    ) -> sandbox_pb2.GetSandboxResponse:
        found = self._known(request.sandbox_id)
        async with found.lock:
            return sandbox_pb2.GetSandboxResponse(sandbox=_sandbox(found, is_listed=False))

    async def _pause(
        self, request: sandbox_pb2.PauseSandboxRequest
    ) -> sandbox_pb2.PauseSandboxResponse:
        self._known(request.sandbox_id)
        raise RefusedError("continuation store not configured")

    async def _resume(
        self, request: sandbox_pb2.ResumeSandboxRequest
    ) -> sandbox_pb2.ResumeSandboxResponse:
        """Every failure is INTERNAL, an unknown id as well. (R)"""
        if not request.sandbox_id:
            raise StatusError("INVALID_ARGUMENT", "sandbox_id is required")
        if request.sandbox_id not in {one.id for one in self.sandboxer.known()}:
            raise RefusedError(f"sandbox {request.sandbox_id} not found")
        raise RefusedError(f"resume requires sandbox {request.sandbox_id} to be in Paused state")

    def _known(self, sandbox_id: str) -> Sandbox:
        if not sandbox_id:
            raise StatusError("INVALID_ARGUMENT", "sandbox_id is required")
        for one in self.sandboxer.known():
            if one.id == sandbox_id:
                return one
        raise StatusError("NOT_FOUND", f"sandbox {sandbox_id} not found")


def _snapshot(one: Template) -> ssi_pb2.SandboxSnapshot:
    return ssi_pb2.SandboxSnapshot(snapshot_name=one.key, mode=ssi_pb2.FORK)


def _sandbox(one: Sandbox, *, is_listed: bool) -> sandbox_pb2.Sandbox:
    """Asked for by id, a sandbox that was booted is called a fork; the name stays empty. (R)"""
    is_fork = one.is_forked or not is_listed
    return sandbox_pb2.Sandbox(
        pod_uid=one.pod_uid,
        sandbox_id=one.id,
        snapshot_mode=sandbox_pb2.WARM_FORK if is_fork else sandbox_pb2.UNSPECIFIED,
        created_at_secs=one.created_at_secs,
        status=one.status,
    )
