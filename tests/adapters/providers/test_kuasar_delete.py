"""A removal counts when nothing is found any more."""

from __future__ import annotations

import asyncio

import pytest

from agentd.errors import ErrorCode, SnapStartError, TransientError, UsageError
from tests.adapters.providers.kuasar_world import KEY, OWNER, KuasarWorld, until
from tests.fakes.kuasar.faults import Fault


async def test_what_was_made_is_removed_with_its_record(world: KuasarWorld) -> None:
    await world.driver.create(world.request())
    assert await world.driver.delete(KEY)
    assert world.templates() == []
    assert world.ledger.all() == {}
    assert not await world.driver.delete(KEY)


async def test_every_template_of_the_key_goes_and_no_other(world: KuasarWorld) -> None:
    await world.driver.create(world.request())
    await world.driver.create(world.request("other"))
    for _ in range(3):
        await world.add_template()
    assert await world.driver.delete(KEY)
    assert [one.key for one in world.sandboxer.templates.values()] == ["other"]


async def test_one_that_is_in_use_stays_with_its_record(world: KuasarWorld) -> None:
    await world.driver.create(world.request())
    session = world.sandboxer.restore(KEY, "uid-user")
    with pytest.raises(UsageError, match="1 of its templates stay") as caught:
        await world.driver.delete(KEY)
    assert caught.value.code is ErrorCode.TEMPLATE_IN_USE
    found = await world.driver.inspect(KEY)
    assert found is not None
    assert (found.is_ready, found.owner) == (True, OWNER)
    world.sandboxer.end(session)
    assert await world.driver.delete(KEY)


async def test_of_several_those_that_nobody_uses_go(told_world: KuasarWorld) -> None:
    world = told_world
    await world.driver.create(world.request())
    session = world.sandboxer.restore(KEY, "uid-user")
    for _ in range(2):
        await world.add_template()
    with pytest.raises(UsageError, match="1 of its templates stay"):
        await world.driver.delete(KEY)
    assert [one.template_id for one in world.templates()] == [session.template_id]


@pytest.mark.parametrize("fault", ["lose", "drop", b"nonsense\n"], ids=repr)
@pytest.mark.parametrize("after", [0, 1, 2], ids=["look", "remove", "look-again"])
async def test_an_error_is_never_an_absence(world: KuasarWorld, fault: Fault, after: int) -> None:
    await world.driver.create(world.request())
    world.fail(*[None] * after, fault)
    with pytest.raises(SnapStartError):
        await world.driver.delete(KEY)
    assert world.ledger.find(KEY) is not None
    await world.driver.delete(KEY)
    assert world.templates() == []
    assert world.ledger.all() == {}


async def test_a_sandboxer_that_is_away_is_an_error(world: KuasarWorld) -> None:
    await world.driver.create(world.request())
    await world.node.stop()
    for asked in (world.driver.delete(KEY), world.driver.inspect(KEY), world.driver.list()):
        with pytest.raises(TransientError) as caught:
            await asked
        assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    await world.node.start()
    await world.settle()
    assert await world.driver.delete(KEY)


async def test_nothing_goes_before_the_sandboxer_knows_what_is_used(world: KuasarWorld) -> None:
    await world.driver.create(world.request())
    world.sandboxer.restore(KEY, "uid-user")
    await world.node.restart()
    with pytest.raises(TransientError, match="started a short time ago") as caught:
        await world.driver.delete(KEY)
    assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
    assert len(world.templates()) == 1
    world.sandboxer.is_recovered = True
    await world.settle()
    with pytest.raises(UsageError, match="running sandboxes need them"):
        await world.driver.delete(KEY)
    assert world.sandboxer.harmed == []


async def test_what_is_being_made_is_not_removed(world: KuasarWorld) -> None:
    await world.driver.create(world.request("other"))
    begun, go_on = world.pause_at_snapshots()
    making = asyncio.create_task(world.driver.create(world.request()))
    await begun.wait()
    with pytest.raises(TransientError, match="it is being made") as caught:
        await world.driver.delete(KEY)
    assert caught.value.code is ErrorCode.TEMPLATE_NOT_READY
    assert await world.driver.delete("other"), "which is no reason to keep another"
    go_on.set()
    assert (await making).is_ready
    assert await world.driver.delete(KEY)


async def test_what_may_come_late_keeps_its_record_so_that_somebody_removes_it(
    world: KuasarWorld,
) -> None:
    world.fail(None, "lose")
    with pytest.raises(SnapStartError):
        await world.driver.create(world.request())
    assert not await world.driver.delete(KEY)
    await world.add_template()
    found = await world.driver.inspect(KEY)
    assert found is not None
    assert (found.is_ready, found.owner) == (False, OWNER)
    assert await world.driver.delete(KEY)
    assert world.templates() == []


async def test_a_removal_that_is_cancelled_is_gone_on_with(hasty_world: KuasarWorld) -> None:
    world = hasty_world
    await world.driver.create(world.request())
    world.fail(None, "hang")
    removing = asyncio.create_task(world.driver.delete(KEY))
    await until(lambda: not world.templates())
    removing.cancel()
    await asyncio.wait({removing})
    assert removing.cancelled()
    assert not await world.driver.delete(KEY)
    assert world.ledger.all() == {}


async def test_two_removals_at_once_agree(world: KuasarWorld) -> None:
    await world.driver.create(world.request())
    outcomes = await asyncio.gather(world.driver.delete(KEY), world.driver.delete(KEY))
    assert sorted(outcomes) == [False, True]
