"""What comes of an order, whatever happens to it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, SnapStartError, TransientError, UsageError
from agentd.kuasar.client import Form
from agentd.providers.ledger import Ledger, Order, OrderState
from controlplane.api.types import SnapshotMode
from tests.adapters.providers.kuasar_world import (
    KEY,
    OWNER,
    KuasarWorld,
    kuasar_world,
    under_way,
    until,
)
from tests.fakes.kuasar.faults import Fault
from tests.fakes.kuasar.sandboxer import ENVIRONMENT, READY_VERSION, Config, Sandbox


def record(world: KuasarWorld, key: str = KEY) -> Order | None:
    found = world.ledger.find(key)
    assert found is None or isinstance(found, Order)
    return found


def state(world: KuasarWorld) -> OrderState | None:
    found = record(world)
    return found.state if found else None


# -- an order is on record before it is given -----------------------------------------------------


async def test_an_order_is_on_record_before_it_is_given_and_its_outcome_after(
    world: KuasarWorld,
) -> None:
    seen: list[OrderState | None] = []

    async def pausing(_: Sandbox) -> None:
        seen.append(state(world))

    world.sandboxer.pausing = pausing
    made = await world.driver.create(world.request())
    assert seen == [OrderState.ORDERED]
    assert state(world) is OrderState.MADE
    assert (made.key, made.owner, made.is_ready) == (KEY, OWNER, True)
    assert made.created_at is not None
    assert len(world.templates()) == 1


@pytest.mark.parametrize("fault", ["drop", "truncate", "hang", "twice", b"nonsense\n"], ids=repr)
async def test_one_that_was_made_although_its_reply_was_not_heard_is_found(
    hasty_world: KuasarWorld, fault: Fault
) -> None:
    world = hasty_world
    world.fail(None, fault)
    assert (await world.driver.create(world.request())).is_ready
    assert world.sandboxer.created[KEY] == len(world.templates()) == 1
    assert state(world) is OrderState.MADE


async def test_one_that_was_not_made_fails_with_what_was_heard_and_is_ordered_anew(
    world: KuasarWorld,
) -> None:
    world.fail(None, "lose")
    with pytest.raises(SnapStartError, match=r"creating .*python-0123456789") as caught:
        await world.driver.create(world.request())
    assert caught.value.code in (ErrorCode.PROVIDER_PROTOCOL, ErrorCode.PROVIDER_UNREACHABLE)
    assert await world.driver.inspect(KEY) is None
    assert state(world) is OrderState.ORDERED, "it may be carried out still"
    assert (await world.driver.create(world.request())).is_ready
    assert len(world.templates()) == 1


async def test_what_came_of_it_is_found_by_the_next_create_if_it_cannot_be_looked_for(
    world: KuasarWorld,
) -> None:
    world.fail(None, "drop", *["lose"] * 3)
    with pytest.raises(SnapStartError, match="creating"):
        await world.driver.create(world.request())
    world.faults.calls.clear()
    found = await world.driver.inspect(KEY)
    assert found is not None
    assert (found.is_ready, found.owner) == (False, OWNER), "nobody has looked at it yet"
    assert (await world.driver.create(world.request())).is_ready
    assert world.sandboxer.created[KEY] == 1


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"status": "stopped"}, ErrorCode.GUEST_NOT_READY),
        ({"is_listening": False}, ErrorCode.GUEST_NOT_READY),
        ({"annotations": {}}, ErrorCode.REQUEST_INVALID),
        ({"annotations": {READY_VERSION: "2"}}, ErrorCode.REQUEST_INVALID),
    ],
    ids=["stopped", "not-listening", "no-annotation", "another-version"],
)
async def test_a_refusal_is_the_last_word_and_leaves_no_record(
    world: KuasarWorld, facts: dict[str, object], code: ErrorCode
) -> None:
    wish = world.request()
    for name, value in facts.items():
        setattr(world.of_pod(wish), name, value)
    with pytest.raises(SnapStartError) as caught:
        await world.driver.create(wish)
    assert caught.value.code is code
    assert record(world) is None
    assert not world.is_any_paused()


async def test_a_refusal_leaves_the_record_of_an_earlier_order_that_was_not_heard_of(
    world: KuasarWorld,
) -> None:
    world.fail(None, "lose")
    with pytest.raises(SnapStartError):
        await world.driver.create(world.request())
    before = record(world)
    wish = world.request()
    world.of_pod(wish).is_listening = False
    with pytest.raises(SnapStartError, match="ready-check failed"):
        await world.driver.create(wish)
    assert record(world) == before


async def test_a_store_full_of_templates_in_use_is_told_and_leaves_no_record(
    tmp_path: Path,
) -> None:
    async with kuasar_world(tmp_path, Form.JSON, Config(gc_watermark=1)) as world:
        await world.driver.create(world.request("other"))
        world.sandboxer.restore("other", "uid-user")
        with pytest.raises(TransientError, match="pool water level exceeded") as caught:
            await world.driver.create(world.request())
        assert caught.value.code is ErrorCode.NODE_FULL
        assert record(world) is None
        assert [one.key for one in await world.driver.list()] == ["other"]


async def test_a_disk_without_room_for_the_record_means_no_order(
    world: KuasarWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Order) -> None:
        raise TransientError(ErrorCode.DISK_FULL, "writing the ledger")

    monkeypatch.setattr(world.ledger, "put", full)
    with pytest.raises(TransientError, match="writing the ledger"):
        await world.driver.create(world.request())
    assert not world.sandboxer.created


# -- what is there already ------------------------------------------------------------------------


async def test_a_template_that_nobody_ordered_is_neither_used_nor_removed(
    world: KuasarWorld,
) -> None:
    await world.add_template()
    with pytest.raises(UsageError, match="no cluster ordered") as caught:
        await world.driver.create(world.request())
    assert caught.value.code is ErrorCode.TEMPLATE_EXISTS
    assert world.sandboxer.created[KEY] == len(world.templates()) == 1
    (found,) = await world.driver.list()
    assert (found.owner, found.snapshot_hash) == (None, "")


async def test_one_with_another_hash_goes_before_its_successor_is_ordered(
    world: KuasarWorld,
) -> None:
    await world.driver.create(world.request())
    (old,) = world.templates()
    made = await world.driver.create(world.request(snapshot_hash="sha256:other"))
    assert (made.snapshot_hash, made.is_ready) == ("sha256:other", True)
    (new,) = world.templates()
    assert new is not old


async def test_one_with_another_hash_that_is_in_use_stays_and_nothing_is_ordered(
    world: KuasarWorld,
) -> None:
    await world.driver.create(world.request())
    session = world.sandboxer.restore(KEY, "uid-user")
    with pytest.raises(UsageError, match="running sandboxes need them") as caught:
        await world.driver.create(world.request(snapshot_hash="sha256:other"))
    assert caught.value.code is ErrorCode.TEMPLATE_IN_USE
    assert world.sandboxer.created[KEY] == len(world.templates()) == 1
    world.sandboxer.end(session)
    made = await world.driver.create(world.request(snapshot_hash="sha256:other"))
    assert made.snapshot_hash == "sha256:other"


async def test_what_may_still_come_of_an_order_with_another_hash_is_waited_for(
    world: KuasarWorld,
) -> None:
    world.fail(None, "lose")
    with pytest.raises(SnapStartError):
        await world.driver.create(world.request())
    with pytest.raises(TransientError, match="may still be carried out"):
        await world.driver.create(world.request(snapshot_hash="sha256:other"))
    late = await world.add_template()
    with pytest.raises(TransientError, match="may still be carried out"):
        await world.driver.create(world.request(snapshot_hash="sha256:other"))
    assert world.templates() == [late]
    world.ahead = timedelta(minutes=1)
    assert (await world.driver.create(world.request(snapshot_hash="sha256:other"))).is_ready
    assert len(world.templates()) == 1
    assert world.templates() != [late]


async def test_one_that_was_made_does_not_end_the_wait_for_an_earlier_order(
    world: KuasarWorld,
) -> None:
    world.fail(None, "lose")
    with pytest.raises(SnapStartError):
        await world.driver.create(world.request())
    assert (await world.driver.create(world.request())).is_ready
    with pytest.raises(TransientError, match="may still be carried out"):
        await world.driver.create(world.request(snapshot_hash="sha256:other"))
    assert await world.driver.delete(KEY)
    await world.add_template()
    found = await world.driver.inspect(KEY)
    assert found is not None
    assert (found.is_ready, found.owner) == (False, OWNER), "this is what came of the first"
    world.ahead = timedelta(minutes=1)
    made = await world.driver.create(world.request(snapshot_hash="sha256:other"))
    assert (made.snapshot_hash, made.is_ready) == ("sha256:other", True)
    assert len(world.templates()) == 1


async def test_of_several_that_came_of_one_order_one_is_left(world: KuasarWorld) -> None:
    world.fail(None, "lose")
    with pytest.raises(SnapStartError):
        await world.driver.create(world.request())
    for _ in range(3):
        await world.add_template()
    assert (await world.driver.create(world.request())).is_ready
    assert len(world.templates()) == 1
    assert (await world.driver.list())[0].is_ready


async def test_the_newest_of_several_is_left(told_world: KuasarWorld) -> None:
    world = told_world
    world.fail(None, "lose")
    with pytest.raises(SnapStartError):
        await world.driver.create(world.request())
    _, newest = await world.add_template(), await world.add_template()
    await world.driver.create(world.request())
    assert world.templates() == [newest]


async def test_one_that_comes_late_makes_the_artifact_unready_until_it_is_removed(
    told_world: KuasarWorld,
) -> None:
    world = told_world
    await world.driver.create(world.request())
    (recorded,) = world.templates()
    await world.add_template()
    found = await world.driver.inspect(KEY)
    assert found is not None
    assert not found.is_ready, "a restore would take the late one"
    assert (await world.driver.create(world.request())).is_ready
    assert world.templates() == [recorded]


async def test_a_spare_one_that_is_in_use_stays_without_harm(world: KuasarWorld) -> None:
    world.fail(None, "drop", *["lose"] * 3)
    with pytest.raises(SnapStartError):
        await world.driver.create(world.request())
    world.faults.calls.clear()
    world.sandboxer.restore(KEY, "uid-user")
    await world.add_template()
    assert (await world.driver.create(world.request())).is_ready
    found = await world.driver.inspect(KEY)
    assert found is not None
    assert found.is_ready


async def test_one_that_was_used_up_is_made_again(tmp_path: Path) -> None:
    async with kuasar_world(tmp_path, Form.JSON, Config(lease="exclusive")) as world:
        await world.driver.create(world.request())
        assert world.sandboxer.restore(KEY, "uid-user").is_forked
        assert await world.driver.inspect(KEY) is None
        assert (await world.driver.create(world.request())).is_ready
        assert world.sandboxer.created[KEY] == 2


async def test_one_that_is_used_up_before_it_was_looked_at_is_an_error(tmp_path: Path) -> None:
    async with kuasar_world(tmp_path, Form.GRPC, Config(lease="exclusive")) as world:

        async def use(_: Sandbox) -> None:
            asyncio.get_running_loop().call_soon(world.sandboxer.restore, KEY, "uid-user")

        world.sandboxer.pausing = use
        with pytest.raises(SnapStartError, match="not there any more") as caught:
            await world.driver.create(world.request())
        assert caught.value.code is ErrorCode.PROVIDER_FAILED
        assert record(world) is None


async def test_what_came_as_something_else_is_told_and_never_taken_for_it(
    told_world: KuasarWorld,
) -> None:
    world = told_world

    def spoil() -> None:
        (template,) = world.templates()
        template.snapshot_type = ENVIRONMENT

    async def pausing(_: Sandbox) -> None:
        asyncio.get_running_loop().call_soon(spoil)

    world.sandboxer.pausing = pausing
    with pytest.raises(SnapStartError, match="what the Kuasar sandboxer has now is") as caught:
        await world.driver.create(world.request())
    assert caught.value.code is ErrorCode.PROVIDER_PROTOCOL
    found = await world.driver.inspect(KEY)
    assert found is not None
    assert (found.mode, found.is_ready) == (None, False)
    with pytest.raises(UsageError, match="no snapshot of mode Fork"):
        await world.driver.create(world.request())
    assert len(world.templates()) == 1


# -- what is refused unasked ----------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", ".", "..", "a/b", "-a", "a b", "x" * 254, "a\n"])
async def test_a_key_that_is_none_is_not_asked_about(world: KuasarWorld, key: str) -> None:
    with pytest.raises(UsageError, match="takes 1 to 253"):
        await world.driver.create(world.request(key))
    with pytest.raises(UsageError, match="takes 1 to 253"):
        await world.driver.inspect(key)
    with pytest.raises(UsageError, match="takes 1 to 253"):
        await world.driver.delete(key)
    assert not world.sandboxer.created
    assert world.ledger.all() == {}


async def test_the_longest_key_is_made_and_removed(world: KuasarWorld) -> None:
    key = "k" * 253
    assert (await world.driver.create(world.request(key))).is_ready
    assert await world.driver.delete(key)


async def test_mode_resume_is_refused(world: KuasarWorld) -> None:
    with pytest.raises(UsageError, match="mode Resume") as caught:
        await world.driver.create(world.request(mode=SnapshotMode.RESUME))
    assert caught.value.code is ErrorCode.REQUEST_INVALID
    assert not world.sandboxer.created


# -- several at once ------------------------------------------------------------------------------


async def test_two_who_want_the_same_share_one_order(world: KuasarWorld) -> None:
    begun, go_on = world.pause_at_snapshots()
    both = [asyncio.create_task(world.driver.create(world.request())) for _ in range(2)]
    await begun.wait()
    go_on.set()
    first, second = await asyncio.gather(*both)
    assert first == second
    assert world.sandboxer.created[KEY] == 1


async def test_another_key_waits_its_turn(world: KuasarWorld) -> None:
    begun, go_on = world.pause_at_snapshots()
    first = asyncio.create_task(world.driver.create(world.request()))
    await begun.wait()
    second = asyncio.create_task(world.driver.create(world.request("other")))
    assert await world.driver.inspect("other") is None
    assert world.ledger.find("other") is None
    assert sum(one.is_paused for one in world.sandboxer.sandboxes.values()) == 1
    go_on.set()
    assert (await first).key == KEY
    assert (await second).key == "other"


async def test_another_hash_waits_and_replaces(world: KuasarWorld) -> None:
    begun, go_on = world.pause_at_snapshots()
    first = asyncio.create_task(world.driver.create(world.request()))
    await begun.wait()
    second = asyncio.create_task(world.driver.create(world.request(snapshot_hash="sha256:other")))
    go_on.set()
    assert (await first).is_ready
    assert (await second).snapshot_hash == "sha256:other"
    assert len(world.templates()) == 1


async def test_whoever_lists_meanwhile_asks_for_no_sandboxes(world: KuasarWorld) -> None:
    begun, go_on = world.pause_at_snapshots()
    making = asyncio.create_task(world.driver.create(world.request()))
    await begun.wait()
    assert world.access.turn.locked()
    assert await world.driver.inspect(KEY) is None
    assert await world.driver.list() == []
    assert await world.driver.capabilities() == {SnapshotMode.FORK}
    go_on.set()
    await making
    assert not world.access.turn.locked()
    assert world.sandboxer.stalls == 0


# -- whoever asked leaves -------------------------------------------------------------------------


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_an_order_outlives_whoever_wanted_it_and_is_picked_up(world: KuasarWorld) -> None:
    begun, go_on = world.pause_at_snapshots()
    first = asyncio.create_task(world.driver.create(world.request()))
    await begun.wait()
    await cancelled(first)
    assert world.is_any_paused(), "its snapshot goes on"
    again = asyncio.create_task(world.driver.create(world.request()))
    await asyncio.sleep(0)
    go_on.set()
    assert (await again).is_ready
    assert world.sandboxer.created[KEY] == 1
    assert not world.is_any_paused()


async def test_an_order_that_nobody_waits_for_is_recorded_when_it_is_done(
    world: KuasarWorld,
) -> None:
    begun, go_on = world.pause_at_snapshots()
    making = asyncio.create_task(world.driver.create(world.request()))
    await begun.wait()
    await cancelled(making)
    go_on.set()
    await until(lambda: not under_way())
    found = await world.driver.inspect(KEY)
    assert found is not None
    assert found.is_ready


async def test_an_order_that_fails_with_nobody_waiting_is_given_again(world: KuasarWorld) -> None:
    begun, go_on = world.pause_at_snapshots()
    making = asyncio.create_task(world.driver.create(world.request()))
    await begun.wait()
    await cancelled(making)
    world.sandboxer.config.gc_watermark = 0
    go_on.set()
    await until(lambda: not under_way())
    assert record(world) is None
    world.sandboxer.config.gc_watermark = 50
    assert (await world.driver.create(world.request())).is_ready


async def test_what_waits_its_turn_is_never_ordered_once_nobody_wants_it(
    world: KuasarWorld,
) -> None:
    begun, go_on = world.pause_at_snapshots()
    first = asyncio.create_task(world.driver.create(world.request()))
    await begun.wait()
    second = asyncio.create_task(world.driver.create(world.request("other")))
    await asyncio.sleep(0)
    await cancelled(second)
    go_on.set()
    await first
    await until(lambda: not under_way())
    assert world.sandboxer.created == {KEY: 1}
    assert world.ledger.find("other") is None


async def test_what_is_only_looked_for_is_not_ordered_once_nobody_wants_it(
    world: KuasarWorld,
) -> None:
    making = asyncio.create_task(world.driver.create(world.request()))
    await asyncio.sleep(0)
    await cancelled(making)
    await until(lambda: not under_way())
    assert not world.sandboxer.created
    assert world.ledger.all() == {}


# -- the agent dies -------------------------------------------------------------------------------


class KilledError(Exception):
    """The agent is no more."""


class MortalLedger(Ledger):
    """Dies around one of its writes; what comes after is not done any more."""

    def __init__(self, path: Path, puts: int, *, is_written: bool) -> None:
        super().__init__(path)
        self._puts = puts
        self._is_written = is_written

    def put(self, order: Order) -> None:
        self._puts -= 1
        if self._puts >= 0:
            super().put(order)
            return
        if self._is_written:
            super().put(order)
        raise KilledError


@pytest.mark.parametrize("is_written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("puts", [0, 1], ids=["the-order", "its-outcome"])
async def test_a_successor_finds_what_came_of_an_order(
    world: KuasarWorld, puts: int, is_written: bool
) -> None:
    dying = world.agent(MortalLedger(world.ledger.path, puts, is_written=is_written), world.access)
    with pytest.raises(KilledError):
        await dying.create(world.request())
    successor = world.successor()
    await world.settle()
    found = await successor.inspect(KEY)
    assert found is None or found.owner == OWNER
    assert found is None or found.is_ready is (puts == 1 and is_written)
    assert (await successor.create(world.request())).is_ready
    assert world.sandboxer.created[KEY] == len(world.templates()) == 1


async def test_a_successor_finds_what_a_predecessor_left_to_the_sandboxer(
    told_world: KuasarWorld,
) -> None:
    world = told_world
    begun, go_on = world.pause_at_snapshots()
    making = asyncio.create_task(world.driver.create(world.request()))
    await begun.wait()
    said = await world.driver.close(wait_s=0.01)
    assert "may stay paused" in said
    assert KEY in said
    with pytest.raises(TransientError) as caught:
        await making
    assert caught.value.code is ErrorCode.SHUTTING_DOWN
    assert not under_way()
    go_on.set()
    await until(lambda: bool(world.templates()))
    assert (await world.successor().create(world.request())).is_ready
    assert world.sandboxer.created[KEY] == 1


# -- stopping -------------------------------------------------------------------------------------


async def test_an_idle_driver_closes_at_once_and_begins_nothing_more(world: KuasarWorld) -> None:
    assert await world.driver.close() == ""
    with pytest.raises(TransientError) as caught:
        await world.driver.create(world.request())
    assert caught.value.code is ErrorCode.SHUTTING_DOWN
    assert not world.sandboxer.created


async def test_a_stop_waits_for_what_was_begun(world: KuasarWorld) -> None:
    begun, go_on = world.pause_at_snapshots()
    making = asyncio.create_task(world.driver.create(world.request()))
    await begun.wait()
    waiting = asyncio.create_task(world.driver.create(world.request("other")))
    closing = asyncio.create_task(world.driver.close())
    await asyncio.sleep(0)
    go_on.set()
    assert await closing == ""
    assert (await making).is_ready
    with pytest.raises(TransientError) as caught:
        await waiting
    assert caught.value.code is ErrorCode.SHUTTING_DOWN


# -- two agents -----------------------------------------------------------------------------------


async def test_what_another_agent_ordered_is_not_taken_over(
    world: KuasarWorld, tmp_path: Path
) -> None:
    other = world.agent(Ledger(tmp_path / "other"))
    await world.driver.create(world.request())
    with pytest.raises(UsageError, match="no cluster ordered"):
        await other.create(world.request())
    assert len(world.templates()) == 1


@pytest.mark.parametrize("ledgers", [1, 2])
async def test_two_agents_that_order_at_once_end_with_one_template(
    world: KuasarWorld, tmp_path: Path, ledgers: int
) -> None:
    paths = {1: world.ledger.path, 2: tmp_path / "other"}
    other = world.agent(Ledger(paths[ledgers]))
    agents = (world.driver, other)
    await asyncio.gather(
        *(agent.create(world.request()) for agent in agents), return_exceptions=True
    )
    for agent in agents * 3:  # as their tasks are tried again
        with suppress(SnapStartError):
            await agent.create(world.request())
    assert len(world.templates()) == 1
    views = [await agent.inspect(KEY) for agent in agents]
    assert any(one is not None and one.is_ready and one.owner == OWNER for one in views)


# -- the sandboxer is replaced --------------------------------------------------------------------


async def test_a_sandboxer_that_restarts_in_the_middle_fails_the_create_and_the_next_goes_well(
    world: KuasarWorld,
) -> None:
    begun, _ = world.pause_at_snapshots()
    making = asyncio.create_task(world.driver.create(world.request()))
    await begun.wait()
    await world.node.restart()
    with pytest.raises(SnapStartError, match="creating"):
        await making
    assert await world.driver.inspect(KEY) is None
    world.sandboxer.pausing = lambda _: asyncio.sleep(0)
    with pytest.raises(TransientError) as caught:
        await world.driver.create(world.request())
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE, "it has its sandboxes to find"
    world.sandboxer.is_recovered = True
    assert (await world.driver.create(world.request())).is_ready
    assert len(world.templates()) == 1


@pytest.mark.parametrize(("before", "after"), [(Form.JSON, Form.GRPC), (Form.GRPC, Form.JSON)])
async def test_a_sandboxer_of_the_other_form_takes_over_what_is_there(
    tmp_path: Path, before: Form, after: Form
) -> None:
    async with kuasar_world(tmp_path, before) as world:
        made = await world.driver.create(world.request())
        (world.node.admin_path if before is Form.JSON else world.node.grpc_path).unlink()
        await world.node.restart(after)
        world.sandboxer.is_recovered = True
        found = await world.driver.inspect(KEY)
        assert found is not None
        assert (found.owner, found.is_ready) == (made.owner, True)
        assert (await world.driver.create(world.request())).is_ready
        assert world.sandboxer.created[KEY] == 1
        await world.settle()
        assert await world.driver.delete(KEY)
        assert world.templates() == []
