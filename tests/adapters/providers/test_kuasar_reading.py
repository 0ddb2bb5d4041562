"""What a driver shows is what was read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode, SnapStartError
from agentd.kuasar.client import Form
from agentd.providers import kuasar
from controlplane.api.types import SnapshotMode
from tests.adapters.providers.kuasar_world import HASH, KEY, OWNER, KuasarWorld, kuasar_world
from tests.fakes.kuasar.faults import Delay, Fault
from tests.fakes.kuasar.sandboxer import Config

FORK = frozenset({SnapshotMode.FORK})


async def test_each_artifact_is_shown_with_what_is_on_record(world: KuasarWorld) -> None:
    for key in ("b", "a"):
        await world.driver.create(world.request(key))
    await world.add_template("nobodys")
    found = await world.driver.list()
    assert [(one.key, one.owner, one.snapshot_hash, one.is_ready) for one in found] == [
        ("a", OWNER, HASH, True),
        ("b", OWNER, HASH, True),
        ("nobodys", None, "", True),
    ]
    assert {one.mode for one in found} == {SnapshotMode.FORK}
    assert [await world.driver.inspect(one.key) for one in found] == found


async def test_an_unknown_key_is_absent(world: KuasarWorld) -> None:
    assert await world.driver.inspect("never-made") is None
    assert await world.driver.list() == []


async def test_the_provider_has_the_name_that_the_operator_gave_it(world: KuasarWorld) -> None:
    assert world.driver.name == "snapstart.kuasar.io"


async def test_a_bare_machine_is_an_artifact_of_no_mode_and_nobody(told_world: KuasarWorld) -> None:
    told_world.sandboxer.add_environment()
    (found,) = await told_world.driver.list()
    assert (found.mode, found.owner) == (None, None)


async def test_leases_and_ages_are_those_that_the_form_tells(told_world: KuasarWorld) -> None:
    world = told_world
    await world.driver.create(world.request())
    for number in range(2):
        world.sandboxer.restore(KEY, f"uid-user-{number}")
    (found,) = await world.driver.list()
    assert found.leases == 2
    (template,) = world.templates()
    assert found.created_at == datetime.fromtimestamp(template.created_at_secs, UTC)
    assert await world.driver.inspect(KEY) == found


async def test_what_is_there_without_a_pool_has_no_leases(told_world: KuasarWorld) -> None:
    world = told_world
    await world.driver.create(world.request())
    world.sandboxer.restore(KEY, "uid-user")
    world.sandboxer.config.has_pool = False
    (found,) = await world.driver.list()
    assert (found.owner, found.leases) == (OWNER, 0)


async def test_leases_that_cannot_be_told_are_an_error(told_world: KuasarWorld) -> None:
    world = told_world
    await world.driver.create(world.request())
    world.fail(None, "lose")
    with pytest.raises(SnapStartError, match="pool's status"):
        await world.driver.inspect(KEY)


async def test_where_ages_are_not_told_the_records_is_shown(tmp_path: Path) -> None:
    async with kuasar_world(tmp_path, Form.GRPC) as world:
        begun = world.now()
        made = await world.driver.create(world.request())
        assert made.created_at is not None
        assert begun <= made.created_at <= world.now()
        assert (await world.driver.list())[0].created_at == made.created_at


async def test_one_that_the_sandboxer_evicted_is_absent(tmp_path: Path) -> None:
    async with kuasar_world(tmp_path, Form.GRPC, Config(gc_watermark=1)) as world:
        await world.driver.create(world.request())
        await world.driver.create(world.request("other"))
        assert await world.driver.inspect(KEY) is None
        assert [one.key for one in await world.driver.list()] == ["other"]


async def test_the_record_of_one_that_is_gone_is_dropped_after_an_hour(world: KuasarWorld) -> None:
    await world.driver.create(world.request())
    await world.driver.create(world.request("other"))
    world.sandboxer.templates.clear()
    world.ahead = timedelta(minutes=59)
    await world.driver.create(world.request("other"))
    assert [one.key for one in await world.driver.list()] == ["other"]
    assert set(world.ledger.all()) == {KEY, "other"}, "a restore that fails brings it back"
    world.ahead = timedelta(minutes=61)
    await world.driver.list()
    assert set(world.ledger.all()) == {"other"}


async def test_a_damaged_record_is_no_absence_and_is_healed_by_the_next_create(
    world: KuasarWorld,
) -> None:
    await world.driver.create(world.request())
    (world.ledger.path / KEY).write_bytes(b"{")
    found = await world.driver.inspect(KEY)
    assert found is not None
    assert (found.is_ready, found.owner, found.snapshot_hash) == (False, None, "")
    assert await world.driver.list() == [found]
    assert (await world.driver.create(world.request())).is_ready
    assert world.sandboxer.created[KEY] == 2, "nobody could tell what it was made for"
    assert len(world.templates()) == 1


async def test_what_has_a_damaged_record_can_be_removed(world: KuasarWorld) -> None:
    await world.driver.create(world.request())
    (world.ledger.path / KEY).write_bytes(b"{")
    assert await world.driver.delete(KEY)
    assert world.ledger.all() == {}


async def test_a_ledger_that_cannot_be_read_is_an_error(world: KuasarWorld) -> None:
    await world.driver.create(world.request())
    world.ledger.path.chmod(0o777)
    for asked in (
        world.driver.inspect(KEY),
        world.driver.list(),
        world.driver.delete(KEY),
        world.driver.create(world.request()),
    ):
        with pytest.raises(ConfigError, match="others may write") as caught:
            await asked
        assert caught.value.code is ErrorCode.PERMISSION_DENIED
    world.ledger.path.chmod(0o700)
    found = await world.driver.inspect(KEY)
    assert found is None or found.owner == OWNER


@pytest.mark.parametrize("fault", ["lose", "truncate", b"nonsense\n", Delay(60.0)], ids=repr)
async def test_what_cannot_be_told_is_an_error(hasty_world: KuasarWorld, fault: Fault) -> None:
    world = hasty_world
    await world.driver.create(world.request())
    asks: list[Callable[[], Awaitable[object]]] = [
        lambda: world.driver.inspect(KEY),
        world.driver.list,
    ]
    for ask in asks:
        world.fail(fault)
        with pytest.raises(SnapStartError):
            await ask()
        world.faults.calls.clear()
        assert await ask()


# -- what it can do -------------------------------------------------------------------------------


async def test_it_can_fork_while_there_is_a_pool(world: KuasarWorld) -> None:
    assert await world.driver.capabilities() == FORK
    world.sandboxer.config.has_pool = False
    assert await world.driver.capabilities() == frozenset()
    world.sandboxer.config.has_pool = True
    assert await world.driver.capabilities() == FORK


async def test_it_can_do_nothing_while_the_sandboxer_is_away(world: KuasarWorld) -> None:
    await world.node.stop()
    assert await world.driver.capabilities() == frozenset()
    await world.node.start()
    assert await world.driver.capabilities() == FORK


async def test_one_that_does_not_answer_in_time_can_do_nothing(
    world: KuasarWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kuasar, "ABLE_S", 0.05)
    world.fail(*["hang"] * 4)
    assert await world.driver.capabilities() == frozenset()
    world.faults.calls.clear()
    monkeypatch.undo()
    assert await world.driver.capabilities() == FORK


async def test_it_can_do_nothing_with_an_older_form(tmp_path: Path) -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"ok": false, "error": "unknown action: template-create"}\n')
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with kuasar_world(tmp_path, Form.JSON) as world:
        await world.node.stop()
        world.node.admin_path.unlink()
        server = await asyncio.start_unix_server(old, world.node.admin_path)
        try:
            assert await world.driver.capabilities() == frozenset()
            with pytest.raises(ConfigError) as caught:
                await world.driver.list()
            assert caught.value.code is ErrorCode.PROVIDER_UNABLE
        finally:
            server.close()
