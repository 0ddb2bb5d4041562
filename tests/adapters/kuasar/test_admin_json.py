"""What is the JSON form's alone, and whatever may come back from one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, PeerError, SnapStartError, TransientError, UsageError
from agentd.kuasar.admin_json import AdminJson
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import Form, KuasarSandbox, KuasarTemplate, PodRef, PoolStatus
from controlplane.api.types import SnapshotMode
from tests.fakes.kuasar.node import KuasarNode

POD = PodRef("uid-1", "team", "build-1")
KEY = "python-0123456789-fork-g1-r1"


class Pods:
    """A container runtime with one Pod. asked: how often."""

    def __init__(self, sandbox_id: str) -> None:
        self.sandbox_id = sandbox_id
        self.asked = 0

    async def sandbox_of(self, pod: PodRef) -> str:
        self.asked += 1
        return self.sandbox_id

    async def pod_uids(self) -> dict[str, str]:
        self.asked += 1
        return {self.sandbox_id: POD.uid}


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[KuasarNode]:
    async with KuasarNode(tmp_path, Form.JSON) as made:
        made.sandboxer.run(POD.uid)
        yield made


@pytest.fixture
def pods(node: KuasarNode) -> Pods:
    (sandbox_id,) = node.sandboxer.sandboxes
    return Pods(sandbox_id)


@pytest.fixture
def client(node: KuasarNode, pods: Pods) -> AdminJson:
    return AdminJson(AdminSocket(node.admin_path, deadline_s=5.0), pods)


async def create(client: AdminJson, pod: PodRef = POD) -> None:
    await client.create(pod, KEY, SnapshotMode.FORK)


async def test_ids_and_times_are_told_the_newest_first(node: KuasarNode, client: AdminJson) -> None:
    await create(client)
    await create(client)
    first, second = await client.find(KEY)
    assert (first.created_at_s or 0) > (second.created_at_s or 0)
    assert {first.template_id, second.template_id} == set(node.sandboxer.templates)


async def test_one_that_is_in_use_is_said_to_be(node: KuasarNode, client: AdminJson) -> None:
    await create(client)
    (found,) = await client.find(KEY)
    node.sandboxer.restore(KEY, "uid-2")
    with pytest.raises(UsageError, match="in use by a running sandbox") as caught:
        await client.remove(found)
    assert caught.value.code is ErrorCode.TEMPLATE_IN_USE


async def test_one_that_is_being_restored_is_said_to_be(
    node: KuasarNode, client: AdminJson
) -> None:
    await create(client)
    (found,) = await client.find(KEY)
    node.sandboxer.templates[found.template_id].restores = 1
    with pytest.raises(UsageError, match="currently being restored") as caught:
        await client.remove(found)
    assert caught.value.code is ErrorCode.TEMPLATE_IN_USE


async def test_a_sandbox_that_is_known_already_is_not_asked_for(
    node: KuasarNode, client: AdminJson, pods: Pods
) -> None:
    await create(client, PodRef(POD.uid, "team", "build-1", pods.sandbox_id))
    assert pods.asked == 0
    assert len(node.sandboxer.templates) == 1


@pytest.mark.parametrize("sandbox_id", ["short", "../../../etc/passwd", "x" * 65])
async def test_an_id_that_is_none_is_not_sent(
    node: KuasarNode, client: AdminJson, pods: Pods, sandbox_id: str
) -> None:
    pods.sandbox_id = sandbox_id
    with pytest.raises(UsageError, match="sandbox_id"):
        await create(client)
    assert not node.calls


async def test_a_template_without_an_id_is_not_asked_for(
    node: KuasarNode, client: AdminJson
) -> None:
    with pytest.raises(UsageError, match="template_id"):
        await client.remove(KuasarTemplate(KEY, SnapshotMode.FORK))
    assert not node.calls


async def test_a_sandbox_that_the_sandboxer_has_not_found_again_passes(
    node: KuasarNode, client: AdminJson
) -> None:
    node.sandboxer.is_recovered = False
    with pytest.raises(TransientError, match="not found") as caught:
        await create(client)
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    assert "restarted" in caught.value.hint


async def test_a_runtime_that_does_not_answer_fails_the_call(
    node: KuasarNode, client: AdminJson
) -> None:
    """With the real resolver: its error is the client's."""
    node.cri_path.unlink()
    with pytest.raises(TransientError, match=r"sandbox of Pod team/build-1 .* no such socket"):
        await node.client().create(POD, KEY, SnapshotMode.FORK)
    with pytest.raises(TransientError, match="no such socket"):
        await node.client().sandboxes()


# -- what may come back ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        b'{"ok": true}\n',
        b'{"ok": true, "templates": null}\n',
        b'{"ok": true, "templates": {}}\n',
        b'{"ok": true, "templates": [1]}\n',
        b'{"ok": true, "templates": [{"template_id": "a", "snapshot_type": "b"}]}\n',
        b'{"ok": true, "templates": [{"template_id": 1, "snapshot_type": "b", "key": "k"}]}\n',
        b'{"ok": true, "templates": [{"template_id": "a", "snapshot_type": "b", "key": "k",'
        b' "created_at_secs": "now"}]}\n',
    ],
)
async def test_templates_that_are_none_are_an_error(
    node: KuasarNode, client: AdminJson, reply: bytes
) -> None:
    node.faults.calls.append(reply)
    with pytest.raises(PeerError, match="listing snapshots by template-create") as caught:
        await client.list()
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL
    assert len(str(caught.value)) < 1000
    assert await client.list() == []


@pytest.mark.parametrize(
    "reply",
    [
        b'{"ok": true}\n',
        b'{"ok": true, "sandboxes": 7}\n',
        b'{"ok": true, "sandboxes": [{"id": "a"}]}\n',
        b'{"ok": true, "sandboxes": [{"id": "a", "status": "running", "template_id": 1}]}\n',
    ],
)
async def test_sandboxes_that_are_none_are_an_error(
    node: KuasarNode, client: AdminJson, pods: Pods, reply: bytes
) -> None:
    node.faults.calls.append(reply)
    with pytest.raises(PeerError, match="listing sandboxes by template-create") as caught:
        await client.sandboxes()
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL
    assert pods.asked == 0


async def test_a_sandbox_of_no_pod_is_listed_without_one(
    node: KuasarNode, client: AdminJson
) -> None:
    row = b'{"id": "debugging", "status": "odd", "template_id": "t", "more": 1}'
    node.faults.calls.append(b'{"ok": true, "sandboxes": [' + row + b"]}\n")
    assert await client.sandboxes() == [KuasarSandbox("debugging", "", "odd", is_restored=True)]


@pytest.mark.parametrize(
    "reply",
    [
        b'{"ok": true}\n',
        b'{"ok": true, "total": "3"}\n',
        b'{"ok": true, "total": 3, "active_shared_refs": {}}\n',
        b'{"ok": true, "total": 3, "active_shared_refs": [{"template_id": "t"}]}\n',
    ],
)
async def test_a_status_that_is_none_is_an_error(
    node: KuasarNode, client: AdminJson, reply: bytes
) -> None:
    node.faults.calls.append(reply)
    with pytest.raises(PeerError, match=r"status by template-create.*no status") as caught:
        await client.modes()
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL
    assert await client.pool() == PoolStatus(0, {})


async def test_an_unknown_kind_of_template_is_listed_without_a_mode(
    node: KuasarNode, client: AdminJson
) -> None:
    row = b'{"template_id": "t", "snapshot_type": "quantum", "key": "k", "more": 1}'
    node.faults.calls.append(b'{"ok": true, "templates": [' + row + b"]}\n")
    assert await client.list() == [KuasarTemplate("k", None, "t")]


@pytest.mark.parametrize(
    "reply",
    [
        b'{"ok": true, "template_id": "t", "key": "other", "snapshot_type": "warm_fork"}\n',
        b'{"ok": true, "template_id": "t", "snapshot_type": "warm_fork"}\n',
        b'{"ok": true, "template_id": "t", "key": "' + KEY.encode() + b'"}\n',
        b'{"ok": true, "template_id": "t", "key": "' + KEY.encode() + b'",'
        b' "snapshot_type": "continuation"}\n',
        b'{"ok": true, "templates": []}\n',
    ],
    ids=["another key", "no key", "no kind", "another kind", "another action"],
)
async def test_a_reply_to_another_request_is_noticed(
    node: KuasarNode, client: AdminJson, reply: bytes
) -> None:
    node.faults.calls.append(reply)
    with pytest.raises(PeerError, match=f"creating '{KEY}' of Pod .* which answers something else"):
        await create(client)


async def test_a_reply_that_comes_twice_counts_once(node: KuasarNode, client: AdminJson) -> None:
    node.faults.calls.append("twice")
    await create(client)
    assert len(await client.find(KEY)) == 1


async def test_a_snapshot_goes_on_when_its_client_leaves(
    node: KuasarNode, client: AdminJson, pods: Pods
) -> None:
    """Its deadline ends the wait, not the work."""
    node.faults.calls.append("hang")
    impatient = AdminJson(AdminSocket(node.admin_path), pods, create_s=8.0)
    with pytest.raises(SnapStartError) as caught:
        await create(impatient)
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert len(await client.find(KEY)) == 1
