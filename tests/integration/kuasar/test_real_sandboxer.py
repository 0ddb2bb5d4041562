"""What our own clients make of a sandboxer: the stand-in, and the one that KUASAR_BIN names."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import AsyncIterator
from typing import Final

import pytest

from agentd.errors import ConfigError, ErrorCode, TransientError, UsageError
from agentd.kuasar.admin_json import AdminJson
from agentd.kuasar.admin_socket import AdminSocket
from agentd.kuasar.client import Form, KuasarClient, PodRef
from agentd.kuasar.probe import Probe, Standing, probe
from agentd.kuasar.ssi import Ssi, read_plugin_info
from controlplane.api.types import SnapshotMode
from tests.fakes.kuasar.sandboxer import ENVIRONMENT

from .conftest import OpenPlace
from .files import Kept
from .places import Place, Real, listens

DEADLINE_S: Final = 20.0
KEY: Final = "python-0123456789-fork-g1-r1"
POD: Final = PodRef("uid-1", "team", "build-1", sandbox_id="a" * 64)
FORKS: Final = [Kept(f"{n:032x}", KEY, created_at_s=1_700_000_000 + n) for n in range(3)]
OTHER: Final = Kept("f" * 32, "other-key")
BARE: Final = Kept("e" * 32, "/kernel:/image:1:256::virtio-blk", ENVIRONMENT)


class NoPods:
    """A container runtime that has none."""

    async def sandbox_of(self, pod: PodRef) -> str:
        """Nobody asks: what is created names its sandbox."""
        raise AssertionError(pod)

    async def pod_uids(self) -> dict[str, str]:
        """See PodSandboxes."""
        return {}


def client_of(place: Place) -> KuasarClient:
    admin = AdminSocket(place.admin, deadline_s=DEADLINE_S)
    if place.form is Form.GRPC:
        return Ssi(place.grpc, admin, call_s=DEADLINE_S)
    return AdminJson(admin, NoPods())


async def probed(place: Place) -> Probe:
    admin = AdminSocket(place.admin)
    absent = place.admin.with_name("absent")
    return await probe(admin, place.grpc, deadline_s=DEADLINE_S, ttrpc_socket=absent)


@contextlib.asynccontextmanager
async def serving(place: Place) -> AsyncIterator[KuasarClient]:
    async with place.serving():
        yield client_of(place)


# -- what it is -----------------------------------------------------------------------------------


async def test_a_probe_tells_its_form(open_place: OpenPlace) -> None:
    place = open_place()
    async with place.serving():
        found = await probed(place)
    assert found.standing.form is place.form, found


async def test_a_probe_tells_one_that_is_gone_from_one_that_never_was(
    open_place: OpenPlace,
) -> None:
    """Killed, it leaves its sockets as files."""
    place = open_place()
    assert (await probed(place)).standing is Standing.ABSENT
    async with place.serving():
        pass
    assert (await probed(place)).standing is Standing.DEAD_SOCKET


async def test_the_sockets_of_one_that_was_killed_are_replaced(open_place: OpenPlace) -> None:
    place = open_place(*FORKS)
    async with serving(place) as client:
        first = await client.list()
    with pytest.raises(TransientError, match="nobody listens on it any more"):
        await client.list()
    async with place.serving():
        assert await client.list() == first
        assert (await probed(place)).standing.form is place.form


async def test_the_admin_socket_is_its_owners_alone(open_place: OpenPlace) -> None:
    place = open_place()
    async with place.serving():
        assert stat.S_IMODE(place.admin.stat().st_mode) == 0o600


async def test_the_plugin_has_a_name_and_a_version(open_grpc: OpenPlace) -> None:
    place = open_grpc()
    async with place.serving():
        info = await read_plugin_info(place.grpc, deadline_s=DEADLINE_S)
        assert info.name == "kuasar-vmm-snapshot"
        assert info.version
        assert (await probed(place)).version == info.version


async def test_the_mode_that_it_can_make_is_fork(open_place: OpenPlace) -> None:
    async with serving(open_place()) as client:
        assert await client.modes() == {SnapshotMode.FORK}


async def test_a_node_without_a_pool_is_a_matter_of_its_settings(open_place: OpenPlace) -> None:
    async with serving(open_place(has_pool=False)) as client:
        for asked in (client.pool, client.modes):
            with pytest.raises(ConfigError, match="template pool not configured") as caught:
                await asked()
            assert caught.value.code is ErrorCode.PROVIDER_UNABLE
        assert await client.list() == []


# -- templates ------------------------------------------------------------------------------------


async def test_nothing_is_there_at_first(open_place: OpenPlace) -> None:
    async with serving(open_place()) as client:
        assert await client.list() == []
        assert await client.find(KEY) == []
        assert await client.sandboxes() == []
        assert (await client.pool()).total == 0


async def test_each_template_of_a_key_is_found(open_place: OpenPlace) -> None:
    async with serving(open_place(*FORKS, OTHER, BARE)) as client:
        found = await client.find(KEY)
        assert [(one.key, one.mode) for one in found] == [(KEY, SnapshotMode.FORK)] * len(FORKS)
        assert len(await client.find(OTHER.key)) == 1
        assert (await client.pool()).total == len(FORKS) + 2


async def test_the_JSON_form_tells_ids_and_times_the_newest_first(open_json: OpenPlace) -> None:
    async with serving(open_json(*FORKS)) as client:
        found = await client.find(KEY)
    newest_first = reversed(FORKS)
    assert [(one.template_id, one.created_at_s) for one in found] == [
        (one.template_id, one.created_at_s) for one in newest_first
    ]


async def test_bare_machines_are_listed_without_a_mode_or_not_at_all(
    open_place: OpenPlace,
) -> None:
    place = open_place(OTHER, BARE)
    async with serving(place) as client:
        found = {one.key: one.mode for one in await client.list()}
    bare = {} if place.form is Form.GRPC else {BARE.key: None}
    assert found == {OTHER.key: SnapshotMode.FORK} | bare


async def test_what_is_removed_is_gone_one_at_a_time(open_place: OpenPlace) -> None:
    async with serving(open_place(*FORKS, OTHER)) as client:
        for left in reversed(range(len(FORKS))):
            await client.remove((await client.find(KEY))[0])
            assert len(await client.find(KEY)) == left
        assert len(await client.find(OTHER.key)) == 1


async def test_what_was_removed_stays_so_after_a_restart(open_place: OpenPlace) -> None:
    place = open_place(OTHER, *FORKS)
    async with serving(place) as client:
        await client.remove((await client.find(OTHER.key))[0])
    async with place.serving():
        assert await client.find(OTHER.key) == []
        assert len(await client.find(KEY)) == len(FORKS)


async def test_removing_what_is_gone_is_no_error(open_place: OpenPlace) -> None:
    async with serving(open_place(OTHER)) as client:
        (found,) = await client.find(OTHER.key)
        await client.remove(found)
        await client.remove(found)


async def test_one_in_use_stays_and_only_the_JSON_form_says_so(open_place: OpenPlace) -> None:
    used = Kept("1" * 32, KEY, uses=1)
    place = open_place(used)
    async with serving(place) as client:
        (found,) = await client.find(KEY)
        assert (await client.pool()).uses == {used.template_id: 1}
        if place.form is Form.JSON:
            with pytest.raises(UsageError, match="in use by a running sandbox") as caught:
                await client.remove(found)
            assert caught.value.code is ErrorCode.TEMPLATE_IN_USE
        else:
            await client.remove(found)
        assert await client.find(KEY) == [found]


# -- sandboxes ------------------------------------------------------------------------------------


async def test_a_sandbox_from_a_fork_counts_as_restored(open_place: OpenPlace) -> None:
    async with serving(open_place(Kept("1" * 32, KEY, uses=1))) as client:
        (found,) = await client.sandboxes()
    assert found.is_restored
    assert found.status == "stopped"


async def test_a_sandbox_from_a_bare_machine_counts_as_booted(open_place: OpenPlace) -> None:
    """It has a template, but nothing of the snapshot's workload."""
    bare = Kept(BARE.template_id, BARE.key, ENVIRONMENT, uses=1)
    async with serving(open_place(bare)) as client:
        (found,) = await client.sandboxes()
    assert not found.is_restored


async def test_while_it_recovers_a_template_in_use_can_be_removed(open_place: OpenPlace) -> None:
    """Why nothing may be removed before it has settled: who uses what is not known yet."""
    place = open_place(Kept("1" * 32, KEY, uses=1))
    async with place.serving(is_recovering=True):
        client = client_of(place)
        (found,) = await client.find(KEY)
        assert (await client.pool()).uses == {}
        await client.remove(found)
        assert await client.find(KEY) == []


async def test_the_socket_for_containerd_is_served_once_it_has_recovered(
    open_real: OpenPlace,
) -> None:
    """A sign of recovery that cannot be mistaken; the other sockets are served before."""
    place = open_real()
    assert isinstance(place, Real)
    async with place.serving():
        assert listens(place.containerd)
    async with place.serving(is_recovering=True):
        assert await client_of(place).list() == []
        assert not listens(place.containerd)


async def test_an_unknown_sandbox_passes_as_one_not_found_again_yet(
    open_place: OpenPlace,
) -> None:
    async with serving(open_place()) as client:
        with pytest.raises(TransientError) as caught:
            await client.create(POD, KEY, SnapshotMode.FORK)
        assert caught.value.code is ErrorCode.PROVIDER_UNREACHABLE
        assert await client.list() == []
