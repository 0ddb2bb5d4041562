"""What is the gRPC form's alone, and whatever may come back from one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from agentd.errors import (
    ConfigError,
    ErrorCode,
    PeerError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import Form, KuasarSandbox, KuasarTemplate, PodRef
from agentd.kuasar.pb import sandbox_pb2, ssi_pb2
from agentd.kuasar.ssi import PluginInfo, Ssi, read_plugin_info
from controlplane.api.types import SnapshotMode
from tests.fakes.kuasar import broken_http2 as http2
from tests.fakes.kuasar.faults import Abort
from tests.fakes.kuasar.grpc_form import PLUGIN, VERSION, GrpcForm
from tests.fakes.kuasar.json_form import JsonForm
from tests.fakes.kuasar.listener import listening
from tests.fakes.kuasar.node import KuasarNode
from tests.fakes.kuasar.sandboxer import Sandbox, Sandboxer

POD = PodRef("uid-1", "team", "build-1")
KEY = "python-0123456789-fork-g1-r1"


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[KuasarNode]:
    async with KuasarNode(tmp_path, Form.GRPC) as made:
        made.sandboxer.run(POD.uid)
        yield made


@pytest.fixture
def client(node: KuasarNode) -> Ssi:
    return make_client(node)


def make_client(node: KuasarNode, *, create_s: float = 10.0) -> Ssi:
    admin = AdminSocket(node.admin_path, deadline_s=5.0)
    return Ssi(node.grpc_path, admin, create_s=create_s, call_s=5.0)


async def create(client: Ssi, pod: PodRef = POD) -> None:
    await client.create(pod, KEY, SnapshotMode.FORK)


def made(**members: object) -> bytes:
    """A reply to create, of a snapshot with these members."""
    snapshot = ssi_pb2.SandboxSnapshot(**members)  # type: ignore[arg-type]
    return ssi_pb2.CreateSandboxSnapshotResponse(snapshot=snapshot).SerializeToString()


def lone(path: Path) -> Ssi:
    """A client of a socket that something odd serves."""
    return Ssi(path, AdminSocket(path.with_name("none.sock")), create_s=10.0, call_s=2.0)


# -- who serves -----------------------------------------------------------------------------------


async def test_a_sandboxer_says_who_it_is(node: KuasarNode) -> None:
    assert await read_plugin_info(node.grpc_path, deadline_s=5) == PluginInfo(PLUGIN, VERSION)


async def test_one_without_a_name_is_none(node: KuasarNode) -> None:
    node.faults.calls.append(b"")
    with pytest.raises(PeerError, match="no name") as caught:
        await read_plugin_info(node.grpc_path, deadline_s=5)
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL


async def test_another_grpc_server_is_no_sandboxer(node: KuasarNode) -> None:
    """Such as the container runtime's."""
    with pytest.raises(PeerError, match="UNIMPLEMENTED") as caught:
        await read_plugin_info(node.cri_path, deadline_s=5)
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL


async def test_an_admin_socket_is_no_grpc_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with JsonForm(Sandboxer()).serving(path):
        with pytest.raises(TransientError, match="served, but not by gRPC") as caught:
            await read_plugin_info(path, deadline_s=5)
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    assert "kuasar.grpc_socket is another's" in caught.value.hint


@pytest.mark.parametrize("said", [b'{"ok": false}\n', b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_what_speaks_no_http2_is_said_to_speak_none(tmp_path: Path, said: bytes) -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    async with listening(tmp_path / "odd.sock", serve):
        with pytest.raises(TransientError, match="served, but not by gRPC") as caught:
            await read_plugin_info(tmp_path / "odd.sock", deadline_s=5)
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE


async def test_one_that_accepts_and_says_nothing_ends_at_the_deadline(tmp_path: Path) -> None:
    async def ignore(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with listening(tmp_path / "odd.sock", ignore):
        with pytest.raises(TransientError, match=r"no reply on .* within 0\.3 s") as caught:
            await read_plugin_info(tmp_path / "odd.sock", deadline_s=0.3)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED


async def test_an_absent_socket_is_told_at_once(tmp_path: Path) -> None:
    """A deadline that the test's own would not survive: nobody waits for a server to appear."""
    with pytest.raises(TransientError, match="there is no such socket") as caught:
        await read_plugin_info(tmp_path / "service.sock", deadline_s=10_000)
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    assert "kuasar.grpc_socket" in caught.value.hint


async def test_a_server_that_appears_is_reached_at_once(tmp_path: Path) -> None:
    """No failure is remembered for the next call."""
    path = tmp_path / "service.sock"
    for _ in range(3):
        with pytest.raises(TransientError):
            await read_plugin_info(path, deadline_s=10_000)
        async with GrpcForm(Sandboxer()).serving(path):
            assert await read_plugin_info(path, deadline_s=5)


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user takes root")
async def test_a_forbidden_socket_names_the_remedy() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)
        path = Path(directory, "service.sock")
        async with GrpcForm(Sandboxer()).serving(path):
            os.chmod(path, 0o600)
            os.seteuid(65534)
            try:
                with pytest.raises(ConfigError, match="run agentd as root") as caught:
                    await read_plugin_info(path, deadline_s=5)
            finally:
                os.seteuid(0)
    assert caught.value.code is ErrorCode.PERMISSION_DENIED


@pytest.mark.parametrize("name", ["a b.sock", "50%25.sock", "a?b#c.sock", "ä.sock"])
async def test_a_path_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    async with GrpcForm(Sandboxer()).serving(tmp_path / name):
        assert await read_plugin_info(tmp_path / name, deadline_s=5)


async def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 107 bytes") as caught:
        await read_plugin_info(tmp_path / ("x" * 108), deadline_s=5)
    assert caught.value.code is ErrorCode.CONFIG_INVALID


# -- what it is for -------------------------------------------------------------------------------


async def test_ids_and_times_are_not_told(client: Ssi) -> None:
    await create(client)
    assert await client.list() == [KuasarTemplate(KEY, SnapshotMode.FORK)]


async def test_a_bare_machine_of_the_same_name_is_not_found(node: KuasarNode, client: Ssi) -> None:
    """Asked for the one name, the sandboxer would say that it is a Fork."""
    node.sandboxer.add_environment(KEY)
    assert await client.find(KEY) == []


async def test_a_pod_of_which_only_the_sandbox_is_known_is_looked_up(
    node: KuasarNode, client: Ssi
) -> None:
    (sandbox_id,) = node.sandboxer.sandboxes
    await create(client, PodRef("", "team", "build-1", sandbox_id))
    assert node.grpc.calls["ListSandboxes"] == 1
    assert len(node.sandboxer.templates) == 1


async def test_a_sandbox_that_nobody_knows_passes(node: KuasarNode, client: Ssi) -> None:
    with pytest.raises(TransientError, match="lists no sandbox 'ffffffffffff'") as caught:
        await create(client, PodRef("", "team", "build-1", "f" * 12))
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    assert node.grpc.calls["CreateSandboxSnapshot"] == 0


async def test_a_pod_of_which_nothing_is_known_is_refused(node: KuasarNode, client: Ssi) -> None:
    with pytest.raises(UsageError, match="neither UID nor sandbox"):
        await create(client, PodRef("", "team", "build-1"))
    assert not node.calls


async def test_a_removal_takes_one_at_a_time(client: Ssi) -> None:
    await create(client)
    await create(client)
    first, _ = await client.find(KEY)
    await client.remove(first)
    assert len(await client.find(KEY)) == 1


async def test_a_snapshot_in_use_hides_another_of_its_key_from_removal(
    node: KuasarNode, client: Ssi
) -> None:
    """Why callers look again, and give up some time."""
    await create(client)
    await create(client)
    lowest = min(node.sandboxer.templates)
    node.sandboxer.templates[lowest].uses = 1
    for _ in range(3):
        await client.remove(KuasarTemplate(KEY, SnapshotMode.FORK))
    assert len(await client.find(KEY)) == 2


async def test_a_client_that_leaves_while_the_guest_is_paused_leaves_it_so(
    node: KuasarNode, client: Ssi
) -> None:
    """Defect of the interface: why a create is never to be cancelled."""

    async def pausing(_sandbox: Sandbox) -> None:
        paused.set()
        await asyncio.Event().wait()

    paused = asyncio.Event()
    node.sandboxer.pausing = pausing
    making = asyncio.create_task(create(client))
    await paused.wait()
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    (sandbox,) = await client.sandboxes()  # waits for whoever holds it
    assert node.sandboxer.sandboxes[sandbox.sandbox_id].is_paused
    assert await client.list() == []


async def test_a_create_that_exceeds_its_deadline_leaves_the_guest_paused_too(
    node: KuasarNode,
) -> None:
    async def pausing(_sandbox: Sandbox) -> None:
        await asyncio.Event().wait()

    node.sandboxer.pausing = pausing
    with pytest.raises(TransientError, match=f"creating '{KEY}'") as caught:
        await create(make_client(node, create_s=8.0))
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    (sandbox,) = await make_client(node).sandboxes()
    assert node.sandboxer.sandboxes[sandbox.sandbox_id].is_paused


async def test_a_call_has_the_deadline_of_a_create_only_if_it_is_one(node: KuasarNode) -> None:
    node.faults.calls.append("hang")
    client = Ssi(node.grpc_path, AdminSocket(node.admin_path), create_s=10_000, call_s=0.2)
    with pytest.raises(TransientError, match=r"within 0\.2 s"):
        await client.list()


# -- the admin socket beside ----------------------------------------------------------------------


async def test_without_the_admin_socket_nothing_is_known_of_the_pool(
    node: KuasarNode, client: Ssi
) -> None:
    """An error, not an empty answer: it may well be there under another path."""
    node.admin_path.unlink()
    for question in (client.modes, client.pool):
        with pytest.raises(TransientError, match=r"by ssi\.v1alpha1: .* no such socket") as caught:
            await question()
        assert "kuasar.admin_socket" in caught.value.hint
    await create(client)


@pytest.mark.parametrize("kinds", [[], [ssi_pb2.PLUGIN_UNKNOWN], [ssi_pb2.PLUGIN_RESUME], [77]])
async def test_a_plugin_that_cannot_fork_has_no_mode(
    node: KuasarNode, client: Ssi, kinds: list[int]
) -> None:
    capabilities = [ssi_pb2.PluginCapability(type=kind) for kind in kinds]  # type: ignore[arg-type]
    reply = ssi_pb2.GetPluginCapabilitiesResponse(capabilities=capabilities)
    node.faults.calls.append(reply.SerializeToString())
    assert await client.modes() == frozenset()


# -- what may come back ---------------------------------------------------------------------------

TRUNCATED = ssi_pb2.ListSandboxSnapshotsResponse(
    snapshots=[ssi_pb2.SandboxSnapshot(snapshot_name=KEY)]
).SerializeToString()[:-1]


@pytest.mark.parametrize(
    "reply",
    [b"\xff" * 1000, b'{"ok": true}', b"\x0a\x04\x12\x02\xff\xfe", b"\x0a\x05", TRUNCATED],
    ids=["noise", "JSON", "no UTF-8", "no body", "truncated"],
)
async def test_an_answer_that_is_none_is_an_error(
    node: KuasarNode, client: Ssi, reply: bytes
) -> None:
    node.faults.calls.append(reply)
    with pytest.raises(PeerError, match=r"by ssi.v1alpha1: .*ListSandboxSnapshotsRes") as caught:
        await client.list()
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL
    assert len(str(caught.value)) < 1000
    assert await client.list() == []


async def test_a_long_answer_is_read_whole(node: KuasarNode, client: Ssi) -> None:
    entries = [ssi_pb2.SandboxSnapshot(snapshot_name=f"{n:0200d}") for n in range(30_000)]
    reply = ssi_pb2.ListSandboxSnapshotsResponse(snapshots=entries)
    node.faults.calls.append(reply.SerializeToString())
    assert len(await client.list()) == 30_000


async def test_an_answer_of_more_than_the_limit_is_refused(node: KuasarNode, client: Ssi) -> None:
    node.faults.calls.append(b"x" * (16 * 1024 * 1024 + 1))
    with pytest.raises(PeerError, match="larger than max") as caught:
        await client.list()
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL


async def test_an_unknown_mode_of_a_snapshot_is_listed_without_one(
    node: KuasarNode, client: Ssi
) -> None:
    entries = [
        ssi_pb2.SandboxSnapshot(snapshot_name="a", mode=77),  # type: ignore[arg-type]
        ssi_pb2.SandboxSnapshot(snapshot_name="b"),
        ssi_pb2.SandboxSnapshot(snapshot_name="c", mode=ssi_pb2.RESUME),
    ]
    reply = ssi_pb2.ListSandboxSnapshotsResponse(snapshots=entries)
    node.faults.calls.append(reply.SerializeToString())
    assert [(one.key, one.mode) for one in await client.list()] == [
        ("a", None),
        ("b", None),
        ("c", SnapshotMode.RESUME),
    ]


async def test_members_that_nobody_knows_are_left_alone(node: KuasarNode, client: Ssi) -> None:
    node.faults.calls.append(made(snapshot_name=KEY, mode=ssi_pb2.FORK) + b"\x9a\x06\x01x")
    await create(client)


@pytest.mark.parametrize(
    ("mode", "is_restored"),
    [
        (sandbox_pb2.UNSPECIFIED, False),
        (sandbox_pb2.WARM_FORK, True),
        (sandbox_pb2.CONTINUATION, True),
        (77, True),
    ],
    ids=["unspecified", "fork", "continuation", "unknown"],
)
async def test_a_sandbox_with_any_mode_was_restored(
    node: KuasarNode, client: Ssi, mode: sandbox_pb2.SnapshotMode, is_restored: bool
) -> None:
    one = sandbox_pb2.Sandbox(pod_uid="u", sandbox_id="s", snapshot_mode=mode, status="odd")
    reply: Message = sandbox_pb2.ListSandboxesResponse(sandboxes=[one])
    node.faults.calls.append(reply.SerializeToString())
    assert await client.sandboxes() == [KuasarSandbox("s", "u", "odd", is_restored)]


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        made(),
        made(snapshot_name="other", mode=ssi_pb2.FORK),
        made(snapshot_name=KEY),
        made(snapshot_name=KEY, mode=ssi_pb2.RESUME),
        made(snapshot_name=KEY, mode=77),
    ],
    ids=["nothing", "empty", "another key", "no mode", "another mode", "unknown mode"],
)
async def test_a_reply_to_another_request_is_noticed(
    node: KuasarNode, client: Ssi, reply: bytes
) -> None:
    node.faults.calls.append(reply)
    with pytest.raises(
        PeerError, match=f"creating '{KEY}' of Pod .* answers something else"
    ) as caught:
        await create(client)
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("INTERNAL", ErrorCode.PROVIDER_FAILED),
        ("UNKNOWN", ErrorCode.PROVIDER_FAILED),
        ("ABORTED", ErrorCode.PROVIDER_FAILED),
        ("PERMISSION_DENIED", ErrorCode.PROVIDER_FAILED),
        ("INVALID_ARGUMENT", ErrorCode.REQUEST_INVALID),
        ("NOT_FOUND", ErrorCode.TEMPLATE_NOT_FOUND),
        ("UNIMPLEMENTED", ErrorCode.PROVIDER_PROTOCOL),
        ("RESOURCE_EXHAUSTED", ErrorCode.PROVIDER_PROTOCOL),
        ("UNAVAILABLE", ErrorCode.PROVIDER_UNREACHABLE),
        ("CANCELLED", ErrorCode.PROVIDER_UNREACHABLE),
        ("DEADLINE_EXCEEDED", ErrorCode.DEADLINE_EXCEEDED),
    ],
)
async def test_a_status_says_whose_move_it_is(
    node: KuasarNode, client: Ssi, status: str, code: ErrorCode
) -> None:
    node.faults.calls.append(Abort("some words", status))
    with pytest.raises(SnapStartError, match=f"creating '{KEY}' of Pod .* by ssi") as caught:
        await create(client)
    assert caught.value.code is code


@pytest.mark.parametrize("status", ["INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "UNKNOWN"])
async def test_known_words_count_more_than_the_status(
    node: KuasarNode, client: Ssi, status: str
) -> None:
    node.faults.calls.append(Abort("no running sandbox found for pod_uid=uid-1", status))
    with pytest.raises(TransientError) as caught:
        await create(client)
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "x" * 1_000_000, "\x00\x1b[31mä\u2028"], ids=["long", "huge", "odd"]
)
async def test_words_of_any_kind_are_cut_and_quoted(
    node: KuasarNode, client: Ssi, text: str
) -> None:
    node.faults.calls.append(Abort(text))
    with pytest.raises(PeerError) as caught:
        await create(client)
    assert len(str(caught.value)) < 1000
    assert "\x1b" not in str(caught.value)


REPLY = http2.message(ssi_pb2.GetPluginInfoResponse(name="n").SerializeToString())
RESETS = [http2.frame(http2.RST_STREAM, 0, 1, code.to_bytes(4, "big")) for code in (0, 2, 7, 8, 11)]


async def test_frames_that_are_sound_are_an_answer(tmp_path: Path) -> None:
    """So that what is wrong with the others is what is said to be."""
    async with http2.answering(tmp_path / "odd.sock", http2.HEAD + REPLY + http2.OK):
        assert await read_plugin_info(tmp_path / "odd.sock", deadline_s=5) == PluginInfo("n", "")


async def test_a_call_names_an_authority_that_is_one(tmp_path: Path) -> None:
    """One made of the socket's path is refused by some servers."""
    async with http2.answering(tmp_path / "odd.sock", http2.HEAD + REPLY + http2.OK) as heard:
        await read_plugin_info(tmp_path / "odd.sock", deadline_s=5)
    (headers,) = heard
    assert b":authority\x09localhost" in headers
    assert b"/ssi.v1alpha1.SandboxSnapshotController/GetPluginInfo" in headers


async def test_each_call_has_a_connection_of_its_own(tmp_path: Path) -> None:
    async with http2.answering(tmp_path / "odd.sock", b"") as heard:
        calls = (read_plugin_info(tmp_path / "odd.sock", deadline_s=8.0) for _ in range(3))
        failed = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(one) for one in failed} == {TransientError}
    assert len(heard) == 3


@pytest.mark.parametrize(
    "answer",
    [RESETS[2], http2.frame(http2.GOAWAY, 0, 0, bytes(8))],
    ids=["refused", "going away"],
)
async def test_a_call_that_is_refused_unseen_is_not_sent_again(
    tmp_path: Path, answer: bytes
) -> None:
    """It would be allowed by the protocol; a snapshot would perhaps be made twice."""
    async with http2.answering(tmp_path / "odd.sock", answer, closes=True) as heard:
        with pytest.raises(TransientError):
            await create(lone(tmp_path / "odd.sock"))
    assert len(heard) == 1


@pytest.mark.parametrize(
    "answer",
    [
        *RESETS,
        b"\xff" * 1000,
        http2.HEAD + http2.OK,
        http2.HEAD + http2.message(b"\x0a\x01n", is_compressed=True) + http2.OK,
        http2.HEAD + http2.frame(http2.DATA, http2.END_STREAM, 1, b"\0\0\0\0\0"),
        http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, b"\x8d"),
        http2.frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff" * 6),
        http2.frame(http2.GOAWAY, 0, 0, bytes(8)),
        http2.HEAD + http2.frame(http2.DATA, 0, 1, b"\0\xff\xff\xff\xff" + b"x" * 100),
    ],
    ids=[
        *(f"reset {code}" for code in (0, 2, 7, 8, 11)),
        "noise",
        "no message",
        "compressed",
        "no status",
        "HTTP 404",
        "broken headers",
        "going away",
        "4 GB announced",
    ],
)
async def test_broken_frames_end_in_an_error(tmp_path: Path, answer: bytes) -> None:
    async with http2.answering(tmp_path / "odd.sock", answer):
        with pytest.raises(SnapStartError, match="listing snapshots by ssi") as caught:
            await lone(tmp_path / "odd.sock").list()
    assert isinstance(caught.value, PeerError | TransientError)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "answer",
    [
        http2.HEAD + REPLY[:-1],
        http2.HEAD + REPLY + REPLY + http2.OK,
        http2.HEAD.replace(b"\0\0\0\1\x88", b"\0\0\0\3\x88"),
    ],
    ids=["half a message", "twice", "another stream"],
)
async def test_a_reply_that_never_gets_whole_ends_at_the_deadline(
    tmp_path: Path, answer: bytes
) -> None:
    async with http2.answering(tmp_path / "odd.sock", answer):
        with pytest.raises(TransientError) as caught:
            await read_plugin_info(tmp_path / "odd.sock", deadline_s=0.3)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("answer", [b"", http2.HEAD, http2.HEAD + REPLY], ids=["0", "1", "2"])
async def test_a_connection_that_ends_says_nothing_of_what_was_done(
    tmp_path: Path, answer: bytes
) -> None:
    async with http2.answering(tmp_path / "odd.sock", answer, closes=True):
        with pytest.raises(TransientError, match=r"ended before its reply") as caught:
            await create(lone(tmp_path / "odd.sock"))
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    assert "not known whether it was done" in caught.value.hint


EXHAUSTED = """
import asyncio, os, resource, sys
from pathlib import Path
from agentd.errors import SnapStartError
from agentd.kuasar.ssi import read_plugin_info

async def ask():
    try:
        await read_plugin_info(Path(sys.argv[1]), deadline_s=5)
    except SnapStartError as exc:
        print(exc.code)

async def main():
    await ask()
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    held = []
    while len(held) < 128:
        try:
            held.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            break
    for _ in range(8):
        await ask()
        os.close(held.pop())

asyncio.run(main())
"""


def test_a_process_that_runs_out_of_descriptors_gets_an_error_and_lives_on(tmp_path: Path) -> None:
    """grpc would abort it if it had to open again what it keeps for itself."""
    command = [sys.executable, "-c", EXHAUSTED, str(tmp_path / "none.sock")]
    child = subprocess.run(command, stdout=subprocess.PIPE, timeout=50, check=True)
    assert child.stdout.decode().splitlines() == ["provider_unreachable"] * 9


FORKING = """
import asyncio, os, sys
from pathlib import Path
from agentd.errors import SnapStartError
from agentd.kuasar.ssi import read_plugin_info

def kept():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass
    return found

async def main():
    try:
        await read_plugin_info(Path(sys.argv[1]), deadline_s=5)
    except SnapStartError:
        pass
    before = kept()
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    print(set(kept().items()) - set(before.items()))

asyncio.run(main())
"""


def test_a_process_that_forks_keeps_the_descriptors_it_has(tmp_path: Path) -> None:
    """grpc would open its own anew in the parent, too."""
    command = [sys.executable, "-c", FORKING, str(tmp_path / "none.sock")]
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    child = subprocess.run(command, stdout=subprocess.PIPE, env=env, timeout=50, check=True)
    assert child.stdout.decode().split() == ["set()"]
