"""The stand-in answers as the gRPC form was read to answer, also where no client of ours asks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from agentd.kuasar.pb import sandbox_pb2, ssi_pb2
from agentd.kuasar.ssi import SANDBOXES, SNAPSHOTS
from tests.fakes.kuasar.grpc_form import GrpcForm
from tests.fakes.kuasar.sandboxer import Sandboxer

KEY = "key-1"


class Raw:
    """Asks with messages alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sandboxer = Sandboxer()
        self.form = GrpcForm(self.sandboxer)

    async def ask(self, service: str, method: str, request: Message) -> bytes:
        return await self.send(service, method, request.SerializeToString())

    async def send(self, service: str, method: str, data: bytes) -> bytes:
        async with grpc.aio.insecure_channel(f"unix:{self.path}") as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                f"/{service}/{method}"
            )
            return await call(data, timeout=10)

    async def refusal(self, service: str, method: str, request: Message) -> tuple[str, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.ask(service, method, request)
        return caught.value.code().name, caught.value.details() or ""


@pytest.fixture
async def raw(tmp_path: Path) -> AsyncIterator[Raw]:
    made = Raw(tmp_path / "service.sock")
    made.sandboxer.run("uid-1")
    async with made.form.serving(made.path):
        yield made


Create = ssi_pb2.CreateSandboxSnapshotRequest


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (Create(), "INVALID_ARGUMENT", "pod_uid"),
        (Create(pod_uid="x", snapshot_name="a/b"), "INVALID_ARGUMENT", "/"),
        (Create(pod_uid="x"), "INTERNAL", "no running sandbox found for pod_uid=x"),
        (Create(pod_uid="uid-1"), "INVALID_ARGUMENT", "snapshot_name"),
        (
            Create(pod_uid="uid-1", mode=ssi_pb2.RESUME),
            "INTERNAL",
            "continuation store not configured",
        ),
    ],
    ids=["no UID", "a slash", "an unknown Pod", "no name", "Resume"],
)
async def test_a_create_is_checked_in_this_order(
    raw: Raw, request_: Message, status: str, words: str
) -> None:
    code, said = await raw.refusal(SNAPSHOTS, "CreateSandboxSnapshot", request_)
    assert code == status
    assert words in said


@pytest.mark.parametrize("mode", [0, 1, 77], ids=["unspecified", "fork", "unknown"])
async def test_every_mode_but_resume_makes_a_fork(raw: Raw, mode: ssi_pb2.SnapshotMode) -> None:
    await raw.ask(
        SNAPSHOTS,
        "CreateSandboxSnapshot",
        Create(pod_uid="uid-1", snapshot_name="..", mode=mode),
    )
    assert [one.key for one in raw.sandboxer.templates.values()] == [".."]


async def test_one_that_is_asked_for_by_name_is_a_fork_whatever_it_is(raw: Raw) -> None:
    raw.sandboxer.add_environment(KEY)
    asked = ssi_pb2.GetSandboxSnapshotRequest(snapshot_name=KEY)
    reply = await raw.ask(SNAPSHOTS, "GetSandboxSnapshot", asked)
    found = ssi_pb2.GetSandboxSnapshotResponse.FromString(reply).snapshot
    assert (found.snapshot_name, found.mode, found.pod_uid) == (KEY, ssi_pb2.FORK, "")
    assert (
        await raw.ask(SNAPSHOTS, "ListSandboxSnapshots", ssi_pb2.ListSandboxSnapshotsRequest())
        == b""
    )


async def test_what_is_absent_is_not_found_and_removed_all_the_same(raw: Raw) -> None:
    asked = ssi_pb2.GetSandboxSnapshotRequest(snapshot_name=KEY)
    assert (await raw.refusal(SNAPSHOTS, "GetSandboxSnapshot", asked))[0] == "NOT_FOUND"
    gone = ssi_pb2.DeleteSandboxSnapshotRequest(snapshot_name=KEY)
    assert await raw.ask(SNAPSHOTS, "DeleteSandboxSnapshot", gone) == b""


@pytest.mark.parametrize("method", ["GetSandboxSnapshot", "DeleteSandboxSnapshot"])
async def test_no_name_is_an_argument_that_is_none(raw: Raw, method: str) -> None:
    nothing = ssi_pb2.GetSandboxSnapshotRequest()
    assert (await raw.refusal(SNAPSHOTS, method, nothing))[0] == "INVALID_ARGUMENT"


async def test_it_is_ready_and_able_to_everything_while_it_recovers(raw: Raw) -> None:
    raw.sandboxer.is_recovered = False
    reply = await raw.ask(SNAPSHOTS, "Probe", ssi_pb2.ProbeRequest())
    assert ssi_pb2.ProbeResponse.FromString(reply).ready
    reply = await raw.ask(
        SNAPSHOTS, "GetPluginCapabilities", ssi_pb2.GetPluginCapabilitiesRequest()
    )
    able = ssi_pb2.GetPluginCapabilitiesResponse.FromString(reply).capabilities
    assert [one.type for one in able] == [ssi_pb2.PLUGIN_FORK, ssi_pb2.PLUGIN_RESUME]


async def test_a_sandbox_asked_for_by_id_seems_restored_and_listed_does_not(raw: Raw) -> None:
    (sandbox_id,) = raw.sandboxer.sandboxes
    asked = sandbox_pb2.GetSandboxRequest(sandbox_id=sandbox_id)
    one = sandbox_pb2.GetSandboxResponse.FromString(await raw.ask(SANDBOXES, "GetSandbox", asked))
    assert one.sandbox.snapshot_mode == sandbox_pb2.WARM_FORK
    reply = await raw.ask(SANDBOXES, "ListSandboxes", sandbox_pb2.ListSandboxesRequest())
    (listed,) = sandbox_pb2.ListSandboxesResponse.FromString(reply).sandboxes
    assert (listed.snapshot_mode, listed.pod_uid) == (sandbox_pb2.UNSPECIFIED, "uid-1")


@pytest.mark.parametrize(
    ("method", "sandbox_id", "status"),
    [
        ("GetSandbox", "", "INVALID_ARGUMENT"),
        ("GetSandbox", "f" * 12, "NOT_FOUND"),
        ("PauseSandbox", "", "INVALID_ARGUMENT"),
        ("PauseSandbox", "f" * 12, "NOT_FOUND"),
        ("ResumeSandbox", "", "INVALID_ARGUMENT"),
        ("ResumeSandbox", "f" * 12, "INTERNAL"),
    ],
)
async def test_what_is_said_of_a_sandbox_that_is_none(
    raw: Raw, method: str, sandbox_id: str, status: str
) -> None:
    asked = sandbox_pb2.GetSandboxRequest(sandbox_id=sandbox_id)
    assert (await raw.refusal(SANDBOXES, method, asked))[0] == status


async def test_an_unreadable_request_is_refused(raw: Raw) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw.send(SNAPSHOTS, "CreateSandboxSnapshot", b"\xff" * 100)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
