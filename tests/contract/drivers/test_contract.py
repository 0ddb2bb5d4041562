"""What every provider's driver promises, whoever makes its snapshots."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from agentd.errors import ErrorCode, SnapStartError, UsageError
from agentd.providers.driver import LocalArtifact, SnapshotOwner
from controlplane.api.types import SnapshotMode
from tests.contract.drivers.providers import FAST, SLOW
from tests.contract.drivers.world import HASH, OWNER, DriverWorld

KEY = "python-0123456789-fork-g1-r1"
OTHER_KEY = "python-0123456789-fork-g2-r1"
OTHER_HASH = "sha256:" + "6" * 64
FORK = frozenset({SnapshotMode.FORK})


on_real_machines_too = pytest.mark.parametrize(
    "world",
    [*FAST, *(pytest.param(one, marks=(pytest.mark.vm, pytest.mark.timeout(400))) for one in SLOW)],
    indirect=True,
)


def but_for_its_age(artifact: LocalArtifact | None) -> LocalArtifact:
    """What a successor has to know; when it was made it may know less well."""
    assert artifact is not None
    return replace(artifact, created_at=None)


# -- making ---------------------------------------------------------------------------------------


async def test_what_was_made_is_shown_as_ready_of_its_owner_its_hash_and_its_mode(
    world: DriverWorld,
) -> None:
    made = await world.driver.create((await world.start_build()).request(KEY))
    assert (made.key, made.owner, made.snapshot_hash) == (KEY, OWNER, HASH)
    assert (made.mode, made.is_ready, made.leases) == (SnapshotMode.FORK, True, 0)
    assert made.created_at is not None
    assert made.created_at.tzinfo is not None
    assert await world.driver.list() == [made]
    assert await world.driver.inspect(KEY) == made
    assert world.held() == {KEY: 1}


async def test_making_it_again_makes_no_second_one(world: DriverWorld) -> None:
    request = (await world.start_build()).request(KEY)
    made = await world.driver.create(request)
    assert await world.driver.create(request) == made
    assert await world.driver.create((await world.start_build()).request(KEY)) == made
    assert world.held() == {KEY: 1}


async def test_two_who_want_the_same_at_once_get_the_same(world: DriverWorld) -> None:
    request = (await world.start_build()).request(KEY)
    first, second = await asyncio.gather(world.driver.create(request), world.driver.create(request))
    assert first == second
    assert world.held() == {KEY: 1}


async def test_those_of_several_keys_are_made_at_once(world: DriverWorld) -> None:
    keys = [f"key-{number}" for number in range(3)]
    builds = [await world.start_build() for _ in keys]
    wishes = [build.request(key) for build, key in zip(builds, keys, strict=True)]
    made = await asyncio.gather(*map(world.driver.create, wishes))
    assert sorted(made, key=lambda one: one.key) == await world.driver.list()
    assert world.held() == dict.fromkeys(keys, 1)


@on_real_machines_too
async def test_one_with_another_hash_takes_its_place(world: DriverWorld) -> None:
    await world.driver.create((await world.start_build()).request(KEY))
    wish = (await world.start_build()).request(KEY, snapshot_hash=OTHER_HASH)
    made = await world.driver.create(wish)
    assert (made.snapshot_hash, made.is_ready) == (OTHER_HASH, True)
    assert await world.driver.list() == [made]
    assert world.held() == {KEY: 1}


@pytest.mark.parametrize(
    "owner",
    [
        replace(OWNER, cluster="elsewhere"),
        replace(OWNER, snapshot_uid="another"),
        replace(OWNER, snapshot_name="other"),
    ],
    ids=["cluster", "uid", "name"],
)
async def test_one_of_another_owner_takes_its_place(
    world: DriverWorld, owner: SnapshotOwner
) -> None:
    await world.driver.create((await world.start_build()).request(KEY))
    made = await world.driver.create((await world.start_build()).request(KEY, owner=owner))
    assert (made.owner, made.is_ready) == (owner, True)
    assert world.held() == {KEY: 1}


async def test_what_nobody_ordered_is_neither_used_nor_removed(world: DriverWorld) -> None:
    await world.make_unordered(KEY)
    with pytest.raises(UsageError, match="no cluster ordered") as caught:
        await world.driver.create((await world.start_build()).request(KEY))
    assert caught.value.code is ErrorCode.TEMPLATE_EXISTS
    assert KEY in str(caught.value)
    (found,) = await world.driver.list()
    assert (found.owner, found.snapshot_hash, found.is_ready) == (None, "", True)
    assert world.held() == {KEY: 1}


@pytest.mark.parametrize("key", ["", ".", "..", "a/b", "../a", "-a", "x" * 254])
async def test_a_key_that_is_none_is_refused(world: DriverWorld, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        await world.driver.create((await world.start_build()).request(key))
    assert caught.value.code is ErrorCode.NAME_INVALID
    assert world.held() == {}
    assert await world.driver.list() == []


async def test_a_mode_that_it_cannot_restore_is_refused(world: DriverWorld) -> None:
    wish = (await world.start_build()).request(KEY, mode=SnapshotMode.RESUME)
    assert wish.mode not in await world.driver.capabilities()
    with pytest.raises(UsageError, match="Resume") as caught:
        await world.driver.create(wish)
    assert caught.value.code is ErrorCode.REQUEST_INVALID
    assert world.held() == {}


async def test_a_pod_that_is_not_there_is_an_error_and_nothing_is_made(world: DriverWorld) -> None:
    build = replace(await world.start_build(), uid="of-a-former-pod")
    with pytest.raises(SnapStartError) as caught:
        await world.driver.create(build.request(KEY))
    assert build.name in str(caught.value)
    assert await world.driver.inspect(KEY) is None
    assert world.held() == {}
    assert (await world.driver.create((await world.start_build()).request(KEY))).is_ready


# -- removing -------------------------------------------------------------------------------------


async def test_a_removed_one_is_gone_and_there_is_none_to_remove_again(
    world: DriverWorld,
) -> None:
    await world.driver.create((await world.start_build()).request(KEY))
    await world.driver.create((await world.start_build()).request(OTHER_KEY))
    assert await world.driver.delete(KEY)
    assert await world.driver.inspect(KEY) is None
    assert world.held() == {OTHER_KEY: 1}
    assert not await world.driver.delete(KEY)
    assert [one.key for one in await world.driver.list()] == [OTHER_KEY]


async def test_one_in_use_is_said_to_be_and_stays(world: DriverWorld) -> None:
    made = await world.driver.create((await world.start_build()).request(KEY))
    await world.start_session(KEY)
    with pytest.raises(UsageError) as caught:
        await world.driver.delete(KEY)
    assert caught.value.code is ErrorCode.TEMPLATE_IN_USE
    assert KEY in str(caught.value)
    assert caught.value.hint
    found = await world.driver.inspect(KEY)
    assert found is not None
    assert replace(found, leases=0) == made
    assert world.held() == {KEY: 1}
    await world.end_sessions()
    assert await world.driver.delete(KEY)
    assert world.held() == {}


async def test_one_in_use_is_not_replaced(world: DriverWorld) -> None:
    await world.driver.create((await world.start_build()).request(KEY))
    await world.start_session(KEY)
    wish = (await world.start_build()).request(KEY, snapshot_hash=OTHER_HASH)
    with pytest.raises(UsageError) as caught:
        await world.driver.create(wish)
    assert caught.value.code is ErrorCode.TEMPLATE_IN_USE
    found = await world.driver.inspect(KEY)
    assert found is not None
    assert (found.snapshot_hash, found.is_ready) == (HASH, True)
    await world.end_sessions()
    assert (await world.driver.create(wish)).snapshot_hash == OTHER_HASH


async def test_one_that_was_taken_away_is_absent_and_can_be_made_again(
    world: DriverWorld,
) -> None:
    await world.driver.create((await world.start_build()).request(KEY))
    await world.take_away(KEY)
    assert await world.driver.inspect(KEY) is None
    assert await world.driver.list() == []
    assert not await world.driver.delete(KEY)
    assert (await world.driver.create((await world.start_build()).request(KEY))).is_ready
    assert world.held() == {KEY: 1}


async def test_a_key_that_was_never_ordered_is_absent(world: DriverWorld) -> None:
    assert await world.driver.inspect(KEY) is None
    assert not await world.driver.delete(KEY)
    assert await world.driver.list() == []


# -- who cannot be asked, who leaves, who comes after ---------------------------------------------


async def test_what_cannot_be_told_is_never_told_as_absent(world: DriverWorld) -> None:
    made = await world.driver.create((await world.start_build()).request(KEY))
    async with world.away():
        shown = await asyncio.gather(
            world.driver.inspect(KEY), world.driver.list(), return_exceptions=True
        )
    assert all(isinstance(one, SnapStartError) or one in (made, [made]) for one in shown), shown
    assert await world.driver.inspect(KEY) == made
    assert world.held() == {KEY: 1}


async def test_what_cannot_be_removed_now_is_not_said_to_be_gone(world: DriverWorld) -> None:
    await world.driver.create((await world.start_build()).request(KEY))
    async with world.away():
        try:
            is_removed = await world.driver.delete(KEY)
        except SnapStartError:
            is_removed = False
        else:
            assert is_removed
    assert world.held() == ({} if is_removed else {KEY: 1})
    assert await world.driver.delete(KEY) is not is_removed
    assert world.held() == {}


async def test_it_can_fork_exactly_while_it_can_be_asked(world: DriverWorld) -> None:
    assert await world.driver.capabilities() == FORK
    async with world.away():
        assert await world.driver.capabilities() == frozenset()
    assert await world.driver.capabilities() == FORK


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 20, 40, 80, 160])
async def test_whoever_leaves_in_the_middle_leaves_nothing_half_known(
    world: DriverWorld, turns: int
) -> None:
    making = asyncio.create_task(world.driver.create((await world.start_build()).request(KEY)))
    for _ in range(turns):
        await asyncio.sleep(0)
    making.cancel()
    await asyncio.wait({making})
    found = await world.driver.inspect(KEY)
    assert found is None or found.owner == OWNER
    made = await world.driver.create((await world.start_build()).request(KEY))
    assert made.is_ready
    assert await world.driver.list() == [made]
    assert world.held() == {KEY: 1}


async def test_a_successor_knows_what_was_made_for_whom(world: DriverWorld) -> None:
    made = await world.driver.create((await world.start_build()).request(KEY))
    await world.make_unordered(OTHER_KEY)
    before = await world.driver.list()
    await world.restart_agent()
    after = await world.driver.list()
    assert [*map(but_for_its_age, after)] == [*map(but_for_its_age, before)]
    found = await world.driver.inspect(KEY)
    assert but_for_its_age(found) == but_for_its_age(made)
    assert found is not None
    assert found.created_at is not None
    assert await world.driver.create((await world.start_build()).request(KEY)) == found
    assert await world.driver.delete(KEY)
    assert world.held() == {OTHER_KEY: 1}


@on_real_machines_too
async def test_an_artifact_lives_from_its_order_to_its_end(world: DriverWorld) -> None:
    request = (await world.start_build()).request(KEY)
    assert await world.driver.capabilities() == FORK
    assert await world.driver.inspect(KEY) is None
    made = await world.driver.create(request)
    assert (made.key, made.owner, made.snapshot_hash) == (KEY, OWNER, HASH)
    assert (made.mode, made.is_ready) == (SnapshotMode.FORK, True)
    assert await world.driver.create(request) == made
    assert await world.driver.list() == [made]
    await world.start_session(KEY)
    with pytest.raises(UsageError) as caught:
        await world.driver.delete(KEY)
    assert caught.value.code is ErrorCode.TEMPLATE_IN_USE
    await world.end_sessions()
    await world.restart_agent()
    assert but_for_its_age(await world.driver.inspect(KEY)) == but_for_its_age(made)
    await world.start_session(KEY)
    await world.end_sessions()
    assert await world.driver.delete(KEY)
    assert not await world.driver.delete(KEY)
    assert world.held() == {}
