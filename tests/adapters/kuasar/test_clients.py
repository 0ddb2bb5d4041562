"""A client of either form keeps the one contract, whatever its sandboxer does."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest

from agentd.errors import (
    ConfigError,
    ErrorCode,
    PeerError,
    SnapStartError,
    TransientError,
    UsageError,
)
from agentd.kuasar.client import Form, KuasarClient, KuasarTemplate, PodRef
from controlplane.api.types import SnapshotMode
from tests.fakes.kuasar.faults import Abort, Delay
from tests.fakes.kuasar.node import KuasarNode
from tests.fakes.kuasar.sandboxer import READY_VERSION, Sandbox

POD = PodRef("uid-1", "team", "build-1")
KEY = "python-0123456789-fork-g1-r1"
FORKED = {"kuasar.io/snapshot-type": "warm-fork", "kuasar.io/template-key": KEY}
LOST = (ErrorCode.PROVIDER_UNREACHABLE, ErrorCode.PROVIDER_PROTOCOL)

Call = Callable[[KuasarClient], Coroutine[None, None, object]]


async def create(client: KuasarClient, key: str = KEY) -> None:
    await client.create(POD, key, SnapshotMode.FORK)


async def remove(client: KuasarClient) -> None:
    await client.remove(KuasarTemplate(KEY, SnapshotMode.FORK, "0" * 32))


CALLS: dict[str, Call] = {
    "modes": lambda client: client.modes(),
    "pool": lambda client: client.pool(),
    "sandboxes": lambda client: client.sandboxes(),
    "create": create,
    "find": lambda client: client.find(KEY),
    "list": lambda client: client.list(),
    "remove": remove,
}


@pytest.fixture(params=list(Form), ids=["json", "grpc"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KuasarNode]:
    async with KuasarNode(tmp_path, request.param) as made:
        made.sandboxer.run(POD.uid)
        yield made


@pytest.fixture
def client(node: KuasarNode) -> KuasarClient:
    return node.client()


def sandbox(node: KuasarNode) -> Sandbox:
    (found,) = node.sandboxer.sandboxes.values()
    return found


async def until(holds: Callable[[], object]) -> None:
    """What another task brings about, in no more than 20 s."""
    for _ in range(4000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to be")


# -- what it is for -------------------------------------------------------------------------------


async def test_what_is_created_is_found_and_removed(client: KuasarClient) -> None:
    await create(client)
    (found,) = await client.find(KEY)
    assert (found.key, found.mode) == (KEY, SnapshotMode.FORK)
    assert await client.list() == [found]
    await client.remove(found)
    assert await client.find(KEY) == []


async def test_creating_twice_makes_two(client: KuasarClient) -> None:
    """Defect of the interface, not of the stand-in: create is not idempotent."""
    await create(client)
    await create(client)
    assert len(await client.find(KEY)) == 2


async def test_another_key_is_not_found(client: KuasarClient) -> None:
    await create(client)
    assert await client.find(KEY + "0") == []


async def test_removing_what_is_gone_is_no_error(client: KuasarClient) -> None:
    await create(client)
    (found,) = await client.find(KEY)
    await client.remove(found)
    await client.remove(found)
    assert await client.list() == []


async def test_one_that_is_in_use_stays_and_is_counted(
    node: KuasarNode, client: KuasarClient
) -> None:
    await create(client)
    node.sandboxer.start("uid-2", FORKED, node.form)
    (found,) = await client.find(KEY)
    (template,) = node.sandboxer.templates
    assert dict((await client.pool()).uses) == {template: 1}
    with contextlib.suppress(UsageError):  # one of the forms says so
        await client.remove(found)
    assert await client.find(KEY) == [found]


async def test_an_exclusive_one_is_gone_once_it_was_restored(
    node: KuasarNode, client: KuasarClient
) -> None:
    node.sandboxer.config.lease = "exclusive"
    await create(client)
    assert node.sandboxer.start("uid-2", FORKED, node.form).is_forked
    assert await client.find(KEY) == []


async def test_fork_is_the_one_mode_and_the_pool_is_counted(client: KuasarClient) -> None:
    await create(client)
    assert await client.modes() == {SnapshotMode.FORK}
    assert (await client.pool()).total == 1


async def test_a_bare_machine_in_the_pool_is_no_snapshot_that_could_be_removed(
    node: KuasarNode, client: KuasarClient
) -> None:
    node.sandboxer.add_environment()
    assert [one.mode for one in await client.list() if one.mode is not None] == []
    assert (await client.pool()).total == 1


async def test_which_sandbox_was_restored_is_told(node: KuasarNode, client: KuasarClient) -> None:
    await create(client)
    node.sandboxer.add_environment()
    forked = node.sandboxer.start("uid-2", FORKED, node.form)
    bare = node.sandboxer.start("uid-3", {}, node.form)
    assert bare.template_id
    found = {one.pod_uid: one for one in await client.sandboxes()}
    assert {uid: one.is_restored for uid, one in found.items()} == {
        POD.uid: False,
        "uid-2": True,
        "uid-3": False,
    }
    assert found["uid-2"].sandbox_id == forked.id
    assert found["uid-2"].status == "running"


async def test_listing_sandboxes_waits_for_a_snapshot(
    node: KuasarNode, client: KuasarClient
) -> None:
    """Why it is never to be asked meanwhile."""
    gate = asyncio.Event()

    async def pausing(_sandbox: Sandbox) -> None:
        await gate.wait()

    node.sandboxer.pausing = pausing
    making = asyncio.create_task(create(client))
    await until(lambda: sandbox(node).is_paused)
    listing = asyncio.create_task(client.sandboxes())
    await until(lambda: node.sandboxer.stalls)
    assert not listing.done()
    gate.set()
    await making
    (found,) = await listing
    assert found.status == "running"


async def test_other_questions_do_not_wait_for_a_snapshot(
    node: KuasarNode, client: KuasarClient
) -> None:
    gate = asyncio.Event()

    async def pausing(_sandbox: Sandbox) -> None:
        await gate.wait()

    node.sandboxer.pausing = pausing
    making = asyncio.create_task(create(client))
    await until(lambda: sandbox(node).is_paused)
    assert await client.list() == []
    assert (await client.pool()).total == 0
    assert await client.modes()
    gate.set()
    await making
    assert not sandbox(node).is_paused


async def test_many_ask_at_once(client: KuasarClient) -> None:
    await create(client)
    found = await asyncio.gather(*(client.find(KEY) for _ in range(32)))
    assert {len(one) for one in found} == {1}


async def test_a_hundred_calls_keep_nothing_open(client: KuasarClient) -> None:
    await create(client)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        await client.list()
    await asyncio.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) < before + 20


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "..", "a/b", "x" * 254], ids=["empty", "dots", "/", "long"])
async def test_a_key_that_is_none_is_not_sent(
    node: KuasarNode, client: KuasarClient, key: str
) -> None:
    with pytest.raises(UsageError, match="takes 1 to 253"):
        await create(client, key)
    with pytest.raises(UsageError, match="takes 1 to 253"):
        await client.find(key)
    assert not node.calls


async def test_resume_is_refused_before_it_is_sent(node: KuasarNode, client: KuasarClient) -> None:
    with pytest.raises(UsageError, match=f"{KEY}.*{POD.uid}.*{node.form}.*mode Resume") as caught:
        await client.create(POD, KEY, SnapshotMode.RESUME)
    assert caught.value.code is ErrorCode.REQUEST_INVALID
    assert not node.calls


@pytest.mark.parametrize("mode", [None, SnapshotMode.RESUME], ids=["none", "Resume"])
async def test_only_snapshots_of_mode_fork_are_removed(
    node: KuasarNode, client: KuasarClient, mode: SnapshotMode | None
) -> None:
    with pytest.raises(UsageError, match="no snapshot of mode Fork"):
        await client.remove(KuasarTemplate("k", mode, "0" * 32))
    assert not node.calls


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
    node: KuasarNode, client: KuasarClient, facts: dict[str, object], code: ErrorCode
) -> None:
    for name, value in facts.items():
        setattr(sandbox(node), name, value)
    with pytest.raises(SnapStartError, match=f"{KEY}.*{POD.uid}.*{node.form}") as caught:
        await create(client)
    assert caught.value.code is code
    assert await client.list() == []


async def test_a_node_without_virtio_blk_cannot_snapshot(
    node: KuasarNode, client: KuasarClient
) -> None:
    node.sandboxer.config.storage = "virtiofs"
    with pytest.raises(ConfigError, match=r"virtio-blk.*on the node") as caught:
        await create(client)
    assert caught.value.code is ErrorCode.PROVIDER_UNABLE


@pytest.mark.parametrize("call", ["modes", "pool", "create"])
async def test_a_node_without_a_pool_is_able_to_nothing(
    node: KuasarNode, client: KuasarClient, call: str
) -> None:
    node.sandboxer.config.has_pool = False
    with pytest.raises(ConfigError, match=r"\[template_pool\] on the node") as caught:
        await CALLS[call](client)
    assert caught.value.code is ErrorCode.PROVIDER_UNABLE


async def test_a_full_pool_of_templates_in_use_refuses_a_new_one(
    node: KuasarNode, client: KuasarClient
) -> None:
    node.sandboxer.config.max_per_key = 1
    await create(client)
    node.sandboxer.start("uid-2", FORKED, node.form)
    with pytest.raises(TransientError, match="max_per_key=1") as caught:
        await create(client)
    assert caught.value.code is ErrorCode.NODE_FULL


async def test_a_full_store_drops_an_idle_snapshot_without_a_word(
    node: KuasarNode, client: KuasarClient
) -> None:
    node.sandboxer.config.gc_watermark = 1
    await create(client, "other")
    await create(client)
    assert [one.key for one in await client.list()] == [KEY]


async def test_a_full_store_of_templates_in_use_refuses_a_new_one(
    node: KuasarNode, client: KuasarClient
) -> None:
    node.sandboxer.config.gc_watermark = 1
    await create(client)
    node.sandboxer.start("uid-2", FORKED, node.form)
    with pytest.raises(TransientError, match="water level") as caught:
        await create(client, "other")
    assert caught.value.code is ErrorCode.NODE_FULL


async def test_sandboxes_are_unknown_until_recovery_is_over(
    node: KuasarNode, client: KuasarClient
) -> None:
    await create(client)
    await node.restart()
    assert len(await client.list()) == 1
    assert await client.sandboxes() == []
    with pytest.raises(TransientError, match="found") as caught:
        await create(client)
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    node.sandboxer.is_recovered = True
    await create(client)


async def test_a_removal_before_recovery_is_over_harms_who_uses_it(
    node: KuasarNode, client: KuasarClient
) -> None:
    """Why callers wait; the client cannot know."""
    await create(client)
    forked = node.sandboxer.start("uid-2", FORKED, node.form)
    (found,) = await client.find(KEY)
    await node.restart()
    await client.remove(found)
    assert node.sandboxer.harmed == [forked.id]


# -- who does not answer --------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
async def test_silence_ends_at_the_deadline(node: KuasarNode, call: str) -> None:
    impatient = node.client(create_s=2.0, call_s=2.0)
    for faults in (node.faults, node.admin.faults):
        faults.calls.append("hang")
    with pytest.raises(TransientError, match=rf"{node.form}: no reply on .* within 2 s") as got:
        await CALLS[call](impatient)
    assert got.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert "look again" in got.value.hint


@pytest.mark.parametrize("call", CALLS)
async def test_a_restart_in_the_middle_of_a_call_is_an_error_and_passes(
    node: KuasarNode, client: KuasarClient, call: str
) -> None:
    for faults in (node.faults, node.admin.faults):
        faults.calls.append("hang")
    asking = asyncio.create_task(CALLS[call](client))
    await until(lambda: node.calls)
    await node.restart()
    with pytest.raises(SnapStartError, match=f" by {node.form}") as caught:
        await asking
    assert caught.value.code in LOST
    assert "look again before repeating" in caught.value.hint
    node.faults.calls.clear()
    node.admin.faults.calls.clear()
    node.sandboxer.is_recovered = True
    await CALLS[call](client)


async def test_a_restart_while_the_guest_is_paused_leaves_no_snapshot(
    node: KuasarNode, client: KuasarClient
) -> None:
    async def pausing(_sandbox: Sandbox) -> None:
        await asyncio.Event().wait()

    node.sandboxer.pausing = pausing
    making = asyncio.create_task(create(client))
    await until(lambda: sandbox(node).is_paused)
    await node.restart()
    with pytest.raises(SnapStartError) as caught:
        await making
    assert caught.value.code in LOST
    assert await client.list() == []


@pytest.mark.parametrize("call", CALLS)
async def test_a_dead_socket_and_an_absent_one_are_told_apart(
    node: KuasarNode, client: KuasarClient, call: str
) -> None:
    await node.stop()
    with pytest.raises(TransientError, match="nobody listens on it any more") as caught:
        await CALLS[call](client)
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    for path in (node.admin_path, node.grpc_path):
        path.unlink(missing_ok=True)
    with pytest.raises(TransientError, match="there is no such socket") as caught:
        await CALLS[call](client)
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    assert "_socket its socket?" in caught.value.hint


@pytest.mark.parametrize(("fault", "is_done"), [("drop", 1), ("lose", 0), ("truncate", 1)], ids=str)
async def test_an_end_without_a_reply_says_nothing_of_what_was_done(
    node: KuasarNode, client: KuasarClient, fault: str, is_done: int
) -> None:
    node.faults.calls.append(fault)
    with pytest.raises(SnapStartError, match=f"creating '{KEY}' of .* by {node.form}") as caught:
        await create(client)
    assert caught.value.code in LOST
    assert len(await client.find(KEY)) == is_done


async def test_a_late_reply_is_waited_for(node: KuasarNode, client: KuasarClient) -> None:
    node.faults.calls.append(Delay(0.2))
    await create(client)


async def test_words_that_nobody_knows_are_passed_on(
    node: KuasarNode, client: KuasarClient
) -> None:
    node.faults.calls.append(Abort("disk copy failed: No space left on device (os error 28)"))
    with pytest.raises(PeerError, match="disk copy failed: No space") as caught:
        await create(client)
    assert caught.value.code is ErrorCode.PROVIDER_FAILED
    assert await client.list() == []


async def test_a_client_that_is_cancelled_keeps_nothing_open(
    node: KuasarNode, client: KuasarClient
) -> None:
    node.faults.calls.append("hang")
    asking = asyncio.create_task(client.list())
    await until(lambda: node.calls)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await client.list() == []


async def test_a_sandboxer_that_is_replaced_is_reached_by_the_next_call(
    node: KuasarNode, client: KuasarClient
) -> None:
    await create(client)
    await node.restart()
    assert len(await client.find(KEY)) == 1
    await node.restart()
    assert len(await client.find(KEY)) == 1
