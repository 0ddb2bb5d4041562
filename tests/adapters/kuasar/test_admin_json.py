"""A sandboxer of the JSON form, and whatever may come back from one."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError, UsageError
from agentd.kuasar.admin_json import AdminJson
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import Form, KuasarTemplate, PodRef
from controlplane.api.types import SnapshotMode
from tests.fakes.kuasar.json_form import JsonForm
from tests.fakes.kuasar.sandboxer import READY_VERSION, Config, Sandboxer

POD = PodRef("uid-1", "team", "build-1")
KEY = "python-0123456789-fork-g1-r1"


class Node:
    """A sandboxer with one sandbox, and a client of it."""

    def __init__(self, path: Path, config: Config | None = None) -> None:
        self.path = path
        self.sandboxer = Sandboxer(config)
        self.form = JsonForm(self.sandboxer)
        self.sandbox = self.sandboxer.run(POD.uid)
        self.socket = AdminSocket(path, deadline_s=5.0)
        self.client = AdminJson(self.socket, self._sandbox_of)

    async def _sandbox_of(self, pod: PodRef) -> str:
        (found,) = (one.id for one in self.sandboxer.sandboxes.values() if one.pod_uid == pod.uid)
        return found

    async def create(self, key: str = KEY) -> None:
        await self.client.create(POD, key, SnapshotMode.FORK)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "admin.sock")
    async with made.form.serving(made.path):
        yield made


# -- what it is for -------------------------------------------------------------------------------


async def test_what_is_created_is_found_and_removed(node: Node) -> None:
    await node.create()
    (found,) = await node.client.find(KEY)
    assert (found.key, found.mode) == (KEY, SnapshotMode.FORK)
    assert found.created_at_s is not None
    assert await node.client.list() == [found]
    await node.client.remove(found)
    assert await node.client.find(KEY) == []
    assert node.client.form is Form.JSON


async def test_creating_twice_makes_two_the_newest_first(node: Node) -> None:
    """Defect of the interface, not of the stand-in: create is not idempotent."""
    await node.create()
    await node.create()
    first, second = await node.client.find(KEY)
    assert (first.created_at_s or 0) > (second.created_at_s or 0)


async def test_another_key_is_not_found(node: Node) -> None:
    await node.create()
    assert await node.client.find(KEY + "0") == []


async def test_removing_what_is_gone_is_no_error(node: Node) -> None:
    await node.create()
    (found,) = await node.client.find(KEY)
    await node.client.remove(found)
    await node.client.remove(found)


async def test_one_that_is_in_use_is_said_to_be(node: Node) -> None:
    await node.create()
    (found,) = await node.client.find(KEY)
    node.sandboxer.restore(KEY, "uid-2")
    with pytest.raises(UsageError, match="in use by a running sandbox") as caught:
        await node.client.remove(found)
    assert caught.value.code is ErrorCode.TEMPLATE_IN_USE
    assert await node.client.find(KEY) == [found]


async def test_an_exclusive_one_is_gone_once_it_was_restored(node: Node) -> None:
    node.sandboxer.config.lease = "exclusive"
    await node.create()
    assert node.sandboxer.restore(KEY, "uid-2").template_id
    assert await node.client.find(KEY) == []


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "..", "a/b", "x" * 254])
async def test_a_key_that_is_none_is_not_sent(node: Node, key: str) -> None:
    with pytest.raises(UsageError, match="takes 1 to 253"):
        await node.create(key)
    with pytest.raises(UsageError, match="takes 1 to 253"):
        await node.client.find(key)
    assert not node.form.calls


async def test_a_mode_that_this_form_keeps_under_no_key_is_refused(node: Node) -> None:
    with pytest.raises(UsageError, match="mode Resume"):
        await node.client.create(POD, KEY, SnapshotMode.RESUME)
    assert not node.form.calls


async def test_only_snapshots_of_mode_fork_are_removed(node: Node) -> None:
    environment = KuasarTemplate("k", None, "0" * 32)
    with pytest.raises(UsageError, match="no snapshot of mode Fork"):
        await node.client.remove(environment)
    assert not node.form.calls


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"status": "created"}, ErrorCode.GUEST_NOT_READY),
        ({"is_listening": False}, ErrorCode.GUEST_NOT_READY),
        ({"annotations": {}}, ErrorCode.REQUEST_INVALID),
        ({"annotations": {READY_VERSION: "2"}}, ErrorCode.REQUEST_INVALID),
    ],
    ids=["not running", "nobody listens", "no annotation", "another version"],
)
async def test_a_sandbox_that_cannot_be_snapshotted(
    node: Node, facts: dict[str, object], code: ErrorCode
) -> None:
    for name, value in facts.items():
        setattr(node.sandbox, name, value)
    with pytest.raises(SnapStartError) as caught:
        await node.create()
    assert caught.value.code is code
    assert await node.client.list() == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"storage": "virtiofs"}, ErrorCode.PROVIDER_UNABLE),
        ({"has_pool": False}, ErrorCode.PROVIDER_UNABLE),
    ],
    ids=str,
)
async def test_a_node_that_cannot_snapshot(
    node: Node, changes: dict[str, object], code: ErrorCode
) -> None:
    for name, value in changes.items():
        setattr(node.sandboxer.config, name, value)
    with pytest.raises(SnapStartError) as caught:
        await node.create()
    assert caught.value.code is code
    assert "on the node" in caught.value.hint


async def test_a_full_pool_of_templates_in_use_refuses_a_new_one(node: Node) -> None:
    node.sandboxer.config.max_per_key = 1
    await node.create()
    node.sandboxer.restore(KEY, "uid-2")
    with pytest.raises(TransientError, match="max_per_key=1") as caught:
        await node.create()
    assert caught.value.code is ErrorCode.NODE_FULL


async def test_sandboxes_are_unknown_until_recovery_is_over(node: Node) -> None:
    await node.create()
    node.sandboxer.is_recovered = False
    assert len(await node.client.list()) == 1
    with pytest.raises(TransientError, match="not found") as caught:
        await node.create()
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE


# -- what may come back ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b'{"ok": 1}\n',
        b'{"ok": false}\n',
        b'{"ok": false, "error": 7}\n',
        b'{"ok": true}\n',
        b'{"ok": true, "templates": null}\n',
        b'{"ok": true, "templates": [1]}\n',
        b'{"ok": true, "templates": [{"template_id": "a", "snapshot_type": "b"}]}\n',
        b'{"ok": true, "templates": [{"template_id": 1, "snapshot_type": "b", "key": "k"}]}\n',
        b'{"ok": true, "templates": []',
        b"x" * 100_000,
        b"[" * 100_000 + b"\n",
    ],
)
async def test_an_answer_that_is_none_is_an_error(node: Node, reply: bytes) -> None:
    node.form.faults.calls.append(reply)
    with pytest.raises(PeerError, match="listing snapshots by template-create") as caught:
        await node.client.list()
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL
    assert len(str(caught.value)) < 1000
    assert await node.client.list() == []


async def test_an_answer_without_end_is_cut_off(tmp_path: Path) -> None:
    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"x" * 1_000_000)
                await writer.drain()
        except OSError:
            writer.close()

    server = await asyncio.start_unix_server(flood, tmp_path / "admin.sock")
    with pytest.raises(PeerError, match="more than 16777216 bytes"):
        await AdminSocket(tmp_path / "admin.sock").call("listing", "template-list")
    server.close()


async def test_an_unknown_kind_of_template_is_listed_without_a_mode(node: Node) -> None:
    row = b'{"template_id": "t", "snapshot_type": "environment", "key": "k", "more": 1}'
    node.form.faults.calls.append(b'{"ok": true, "templates": [' + row + b"]}\n")
    assert await node.client.list() == [KuasarTemplate("k", None, "t")]


async def test_a_reply_to_another_request_is_noticed(node: Node) -> None:
    other = b'{"ok": true, "template_id": "t", "key": "other", "snapshot_type": "warm_fork"}\n'
    node.form.faults.calls.append(other)
    with pytest.raises(PeerError, match="answered something else"):
        await node.create()


async def test_a_reply_that_comes_twice_counts_once(node: Node) -> None:
    node.form.faults.calls.append("twice")
    await node.create()
    assert len(await node.client.find(KEY)) == 1


@pytest.mark.parametrize(("fault", "is_done"), [("drop", 1), ("truncate", 1), ("lose", 0)])
async def test_an_end_without_a_reply_says_nothing_of_what_was_done(
    node: Node, fault: str, is_done: int
) -> None:
    node.form.faults.calls.append(fault)
    with pytest.raises(PeerError, match=r"creating .* the end of the connection") as caught:
        await node.create()
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL
    assert len(await node.client.find(KEY)) == is_done


async def test_silence_ends_at_the_deadline(node: Node) -> None:
    node.form.faults.calls.append("hang")
    with pytest.raises(TransientError, match=r"no reply on .* within 0\.05 s") as caught:
        await node.socket.call("listing", "template-list", deadline_s=0.05)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert "look again" in caught.value.hint


# -- who does not answer --------------------------------------------------------------------------


async def test_absence_a_dead_socket_and_a_replaced_one_are_told_apart(tmp_path: Path) -> None:
    node = Node(tmp_path / "admin.sock")
    with pytest.raises(TransientError, match="there is no such socket") as caught:
        await node.client.list()
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    async with node.form.serving(node.path):
        assert await node.client.list() == []
    with pytest.raises(TransientError, match="nobody listens on it any more"):
        await node.client.list()
    async with node.form.serving(node.path):
        assert await node.client.list() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user takes root")
async def test_a_forbidden_socket_names_the_remedy() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)
        node = Node(Path(directory, "admin.sock"))
        async with node.form.serving(node.path):
            os.seteuid(65534)
            try:
                with pytest.raises(SnapStartError, match="run agentd as root") as caught:
                    await node.client.list()
            finally:
                os.seteuid(0)
    assert caught.value.code is ErrorCode.PERMISSION_DENIED


async def test_another_form_is_said_to_be_one(node: Node) -> None:
    with pytest.raises(SnapStartError, match="unknown template action: template-make") as caught:
        await node.socket.call("making", "template-make")
    assert caught.value.code is ErrorCode.PROVIDER_UNABLE
