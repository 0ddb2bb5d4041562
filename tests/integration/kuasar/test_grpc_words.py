"""What the gRPC socket answers, word for word, called without a client of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.message import Message

from agentd.kuasar.pb import sandbox_pb2, ssi_pb2
from agentd.kuasar.ssi import SANDBOXES, SNAPSHOTS
from tests.fakes.kuasar.sandboxer import ENVIRONMENT

from .conftest import OpenPlace
from .files import Kept

ANSWER_S: Final = 20.0
FORK: Final = Kept("1" * 32, "key-a")
BARE: Final = Kept("e" * 32, "/kernel:/image:1:256::virtio-blk", ENVIRONMENT)


async def call(
    path: Path, service: str, method: str, request: Message | bytes, authority: str = "localhost"
) -> bytes:
    """The reply's bytes. Raises: AioRpcError."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    options = (
        ("grpc.default_authority", authority),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", -1),
    )
    async with grpc.aio.insecure_channel(f"unix:{quote(str(path))}", options=options) as channel:
        ask: Any = channel.unary_unary(f"/{service}/{method}")
        return bytes(await ask(data, timeout=ANSWER_S))


async def refusal(
    path: Path, service: str, method: str, request: Message | bytes
) -> tuple[str, str]:
    """The name of the status, its words."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(path, service, method, request)
    return caught.value.code().name, caught.value.details() or ""


NO_SLASH: Final = "snapshot_name must not contain '/'"
REFUSALS: Final[dict[str, tuple[str, str, Any, str, str]]] = {
    "create without a Pod": (
        SNAPSHOTS,
        "CreateSandboxSnapshot",
        ssi_pb2.CreateSandboxSnapshotRequest(snapshot_name="a/b"),
        "INVALID_ARGUMENT",
        "pod_uid is required",
    ),
    "create under a path": (
        SNAPSHOTS,
        "CreateSandboxSnapshot",
        ssi_pb2.CreateSandboxSnapshotRequest(pod_uid="uid-1", snapshot_name="a/b"),
        "INVALID_ARGUMENT",
        f"{NO_SLASH}; that separator is reserved for auto-generated continuation keys",
    ),
    "create of an unknown Pod": (
        SNAPSHOTS,
        "CreateSandboxSnapshot",
        ssi_pb2.CreateSandboxSnapshotRequest(pod_uid="uid-1"),
        "INTERNAL",
        "no running sandbox found for pod_uid=uid-1",
    ),
    "delete of nothing": (
        SNAPSHOTS,
        "DeleteSandboxSnapshot",
        ssi_pb2.DeleteSandboxSnapshotRequest(),
        "INVALID_ARGUMENT",
        "snapshot_name is required",
    ),
    "get of nothing": (
        SNAPSHOTS,
        "GetSandboxSnapshot",
        ssi_pb2.GetSandboxSnapshotRequest(),
        "INVALID_ARGUMENT",
        "snapshot_name is required",
    ),
    "get of an unknown one": (
        SNAPSHOTS,
        "GetSandboxSnapshot",
        ssi_pb2.GetSandboxSnapshotRequest(snapshot_name="nope"),
        "NOT_FOUND",
        "snapshot 'nope' not found",
    ),
    "get of an unknown sandbox": (
        SANDBOXES,
        "GetSandbox",
        sandbox_pb2.GetSandboxRequest(sandbox_id="nope"),
        "NOT_FOUND",
        "sandbox nope not found",
    ),
    "pause of an unknown sandbox": (
        SANDBOXES,
        "PauseSandbox",
        sandbox_pb2.PauseSandboxRequest(sandbox_id="nope"),
        "NOT_FOUND",
        "sandbox nope not found",
    ),
    "resume of an unknown sandbox": (
        SANDBOXES,
        "ResumeSandbox",
        sandbox_pb2.ResumeSandboxRequest(sandbox_id="nope"),
        "INTERNAL",
        "sandbox nope not found",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
async def test_why_a_call_is_refused(open_grpc: OpenPlace, what: str) -> None:
    service, method, request, status, words = REFUSALS[what]
    place = open_grpc()
    async with place.serving():
        assert await refusal(place.grpc, service, method, request) == (status, words)


async def test_there_is_neither_reflection_nor_a_health_service(open_grpc: OpenPlace) -> None:
    services = {
        "grpc.reflection.v1alpha.ServerReflection": "ServerReflectionInfo",
        "grpc.health.v1.Health": "Check",
    }
    place = open_grpc()
    async with place.serving():
        for service, method in services.items():
            status, _ = await refusal(place.grpc, service, method, b"")
            assert status == "UNIMPLEMENTED"


async def test_a_request_that_is_none_is_an_internal_error(open_grpc: OpenPlace) -> None:
    place = open_grpc()
    async with place.serving():
        status, _ = await refusal(place.grpc, SNAPSHOTS, "GetSandboxSnapshot", b"\x0a\x05ab")
    assert status == "INTERNAL"


async def test_deleting_is_always_said_to_be_done(open_grpc: OpenPlace) -> None:
    """Of a name that is unknown, a bare machine's, in use; names of paths are taken as well."""
    used = Kept("2" * 32, "in-use", uses=1)
    place = open_grpc(FORK, BARE, used)
    async with place.serving():
        for name in ("unknown", BARE.key, used.key, "a/b"):
            request = ssi_pb2.DeleteSandboxSnapshotRequest(snapshot_name=name)
            assert await call(place.grpc, SNAPSHOTS, "DeleteSandboxSnapshot", request) == b""
        found = await names_of(place.grpc, ssi_pb2.UNSPECIFIED)
        assert found == [FORK.key, used.key]
        get = ssi_pb2.GetSandboxSnapshotRequest(snapshot_name=BARE.key)
        data = await call(place.grpc, SNAPSHOTS, "GetSandboxSnapshot", get)
    snapshot = ssi_pb2.GetSandboxSnapshotResponse.FromString(data).snapshot
    assert snapshot.mode == ssi_pb2.FORK  # what a bare machine is called


async def names_of(path: Path, mode: int) -> list[str]:
    """What is listed, in the order of template ids."""
    request = ssi_pb2.ListSandboxSnapshotsRequest()
    request.mode = mode  # type: ignore[assignment]
    data = await call(path, SNAPSHOTS, "ListSandboxSnapshots", request)
    found = ssi_pb2.ListSandboxSnapshotsResponse.FromString(data).snapshots
    assert {one.mode for one in found} <= {ssi_pb2.FORK}
    assert {one.pod_uid for one in found} <= {""}
    return [one.snapshot_name for one in found]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(0, ["key-a", "key-a"]), (1, ["key-a", "key-a"]), (2, []), (9, ["key-a", "key-a"])],
)
async def test_which_modes_are_listed(open_grpc: OpenPlace, mode: int, expected: list[str]) -> None:
    """Once for each template; an unknown mode is any."""
    place = open_grpc(FORK, Kept("2" * 32, FORK.key), BARE)
    async with place.serving():
        assert await names_of(place.grpc, mode) == expected


async def test_the_capabilities_say_nothing_of_the_node(open_grpc: OpenPlace) -> None:
    place = open_grpc(has_pool=False)
    async with place.serving():
        data = await call(
            place.grpc, SNAPSHOTS, "GetPluginCapabilities", ssi_pb2.GetPluginCapabilitiesRequest()
        )
        ready = await call(place.grpc, SNAPSHOTS, "Probe", ssi_pb2.ProbeRequest())
    found = ssi_pb2.GetPluginCapabilitiesResponse.FromString(data).capabilities
    assert [one.type for one in found] == [ssi_pb2.PLUGIN_FORK, ssi_pb2.PLUGIN_RESUME]
    assert ssi_pb2.ProbeResponse.FromString(ready).ready


async def test_asked_for_by_id_a_sandbox_is_called_a_fork(open_grpc: OpenPlace) -> None:
    """From a bare machine; the list knows better."""
    bare = Kept(BARE.template_id, BARE.key, ENVIRONMENT, uses=1)
    place = open_grpc(bare)
    async with place.serving():
        data = await call(
            place.grpc, SANDBOXES, "ListSandboxes", sandbox_pb2.ListSandboxesRequest()
        )
        (listed,) = sandbox_pb2.ListSandboxesResponse.FromString(data).sandboxes
        request = sandbox_pb2.GetSandboxRequest(sandbox_id=listed.sandbox_id)
        data = await call(place.grpc, SANDBOXES, "GetSandbox", request)
    asked = sandbox_pb2.GetSandboxResponse.FromString(data).sandbox
    assert listed.snapshot_mode == sandbox_pb2.UNSPECIFIED
    assert asked.snapshot_mode == sandbox_pb2.WARM_FORK
    assert (listed.status, asked.status) == ("stopped", "stopped")
