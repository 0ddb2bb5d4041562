"""Forks whose memory a page server brings: one that only speaks, then the real one."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import ErrorCode, PeerError, PermanentError, TransientError
from agentd.pager.client import PagerClient
from agentd.pager.places import own_binary
from agentd.pager.working_sets import WorkingSets, image_digest
from agentd.store.loaded import LoadedTemplate
from agentd.vmm.paging import Paging
from agentd.vmm.vmm import Started
from tests.adapters.vmm.page_server import PageServer, why_not
from tests.conftest import open_fds
from tests.fakes.firecracker import StandIn, build_launcher
from tests.fakes.firecracker_world import World, run, talking
from tests.fakes.pager import FakePager

IMAGE = "/proc/self/fd/7"


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_launcher(tmp_path_factory.mktemp("firecracker"))


@pytest.fixture
def root() -> Iterator[Path]:
    """Short enough for socket paths."""
    path = Path(tempfile.mkdtemp(prefix="fc-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def world(root: Path, launcher: Path) -> Iterator[World]:
    made = World(root, StandIn(launcher, root / "bin"))
    (root / "templates/python").mkdir(parents=True)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page server that stands still is no silent one."""
    monkeypatch.setattr("agentd.vmm.paging._ANSWER_S", 20.0)
    monkeypatch.setattr("agentd.vmm.paging._END_S", 20.0)


@pytest.fixture
async def pager(root: Path) -> AsyncIterator[FakePager]:
    async with FakePager(root).serving() as running:
        yield running


class Told:
    """The steps of the working sets."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, event: str, /, **details: str | int | float) -> None:
        self.events.append(event)


@asynccontextmanager
async def paged(
    world: World, control: Path, *, forks: int = 2, record_s: float = 30.0, **settings: Any
) -> AsyncIterator[Told]:
    """The world's driver has a page server from here on; it serves nothing unless told to."""
    told = Told()
    sets = WorkingSets(own_binary(), 1000, forks, told)
    paging = Paging(PagerClient(control, call_s=2.0), sets, world.root / "templates", record_s)
    world.driver = world.new_driver(paging=paging, **{"can_fault": True, **settings})
    try:
        yield told
    finally:
        await sets.close()


def pages_of(world: World) -> set[str]:
    """What is beside the template."""
    return {path.name for path in (world.root / "templates/python").glob("pages/*")}


def working_set(world: World, template: LoadedTemplate) -> Path:
    """One that the fake page server does not look at."""
    directory = world.root / "templates/python/pages"
    directory.mkdir()
    path = directory / f"{image_digest(template.manifest.memory)}.set"
    path.write_bytes(b"a working set")
    return path


async def end(started: Started) -> None:
    """Of a machine that nobody talks to."""
    started.channel.sock.close()
    await started.vm.kill()


# -- one that only speaks -------------------------------------------------------------------------


async def test_a_first_fork_is_recorded_from_its_hand_over_to_its_end(
    world: World, pager: FakePager
) -> None:
    async with world.template() as template, paged(world, pager.path) as told:
        world.stand_in.set(unserved_image=IMAGE)
        started = await world.fork(template)
        pid, digest = started.vm.record.pid, image_digest(template.manifest.memory)
        machine = pager.machines["s-1"]
        assert machine.pid == pid
        record = world.root / f"templates/python/pages/{digest}.s-1.record"
        assert machine.order == {
            "op": "listen",
            "vm": "s-1",
            "socket": str(started.vm.record.run_dir / "vm/memory"),
            "protocol": "firecracker",
            "image": f"/proc/{pid}/fd/7",
            "digest": digest,
            "working_set": "",
            "record": str(record),
            "uid": os.geteuid(),
        }
        assert machine.regions[0]["size"] == template.manifest.memory.size_bytes
        assert not record.exists()
        await end(started)
        assert record.exists()
    assert told.events == ["working_set.recorded"]


async def test_a_recording_ends_after_a_while_though_the_machine_runs_on(
    world: World, pager: FakePager
) -> None:
    async with world.template() as template, paged(world, pager.path, record_s=0.05) as told:
        world.stand_in.set(unserved_image=IMAGE)
        started = await world.fork(template)
        async with asyncio.timeout(10):
            while not told.events:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert started.vm.is_running
        await end(started)
    assert told.events == ["working_set.recorded"]
    assert len(pages_of(world)) == 1


async def test_later_forks_are_served_by_what_was_recorded(world: World, pager: FakePager) -> None:
    async with world.template() as template, paged(world, pager.path):
        path = working_set(world, template)
        world.stand_in.set(unserved_image=IMAGE)
        started = await world.fork(template)
        order = pager.machines["s-1"].order
        assert (order["working_set"], order["record"]) == (str(path), "")
        await end(started)


async def test_the_guest_runs_only_when_its_memory_is_served(
    world: World, pager: FakePager
) -> None:
    """The page server does not answer `wait`: the fork ends with its deadline, nothing ran."""
    async with world.template() as template, paged(world, pager.path):
        working_set(world, template)
        world.stand_in.set(unserved_image=IMAGE)
        pager.says["wait"] = None
        with pytest.raises(TransientError) as caught:
            await world.driver.fork(template, world.fork_spec(), deadline_s=1.5)
        assert "stand-in guest" not in caught.value.message
    assert caught.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert "s-1" not in pager.machines
    assert not list(world.vms_dir.iterdir())


@pytest.mark.parametrize("version", ["1.11.0", "1.12.0", "1.16.1"])
async def test_both_ends_of_the_hand_over_are_understood(
    root: Path, launcher: Path, pager: FakePager, version: str
) -> None:
    """Before v1.12 the connection ends at once, later with the process."""
    world = World(root, StandIn(launcher, root / version, version))
    (root / "templates/python").mkdir(parents=True)
    async with world.template() as template, paged(world, pager.path):
        working_set(world, template)
        world.stand_in.set(unserved_image=IMAGE)
        started = await world.fork(template)
        async with talking(started) as channel:
            assert await run(channel, "print(2)") == "2\n"
    world.close()


@pytest.mark.parametrize("says", ["refuses", "babbles", "silent"])
async def test_a_page_server_that_does_not_serve_costs_nobody_a_fork(
    world: World, pager: FakePager, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentd.vmm.paging._ANSWER_S", 0.5)
    answers = {
        "refuses": b'{"ok":false,"error":"system","message":"no room"}\n',
        "babbles": b"what?\n",
        "silent": None,
    }
    async with world.template() as template, paged(world, pager.path):
        working_set(world, template)
        pager.says["listen"] = answers[says]
        started = await world.fork(template)
        async with talking(started) as channel:
            assert await run(channel, "print(3)") == "3\n"
    assert "forget" in {request["op"] for request in pager.requests}


async def test_without_a_page_server_forks_map_the_image(world: World) -> None:
    async with world.template() as template, paged(world, world.root / "nobody") as told:
        first = await world.fork(template)
        await end(first)
        again = await world.fork(template, "s-2")
        await end(again)
    assert told.events == []
    assert pages_of(world) == set()


async def test_where_machines_may_not_fault_nobody_is_asked(world: World, pager: FakePager) -> None:
    async with world.template() as template, paged(world, pager.path, can_fault=False):
        started = await world.fork(template)
        await end(started)
    assert pager.requests == []
    assert pages_of(world) == set()


async def test_nothing_recorded_and_nothing_to_record_maps_the_image(
    world: World, pager: FakePager
) -> None:
    async with world.template() as template, paged(world, pager.path, forks=0):
        started = await world.fork(template)
        await end(started)
    assert pager.requests == []


async def test_a_machine_that_the_page_server_stopped_is_ended_with_its_reason(
    world: World, pager: FakePager
) -> None:
    async with world.template() as template, paged(world, pager.path):
        working_set(world, template)
        world.stand_in.set(unserved_image=IMAGE)
        pager.says["wait"] = b'{"ok":false,"error":"stopped","message":"its image was cut"}\n'
        with pytest.raises(PermanentError, match="its image was cut"):
            await world.fork(template)
    assert "s-1" not in pager.machines
    assert not list(world.vms_dir.iterdir())


async def test_a_page_server_that_died_before_it_had_written_it_down_ends_the_machine(
    world: World, pager: FakePager
) -> None:
    async with world.template() as template, paged(world, pager.path):
        working_set(world, template)
        world.stand_in.set(unserved_image=IMAGE)
        pager.says["wait"] = b'{"ok":false,"error":"unknown","message":"never heard of it"}\n'
        with pytest.raises(TransientError, match="never heard of it") as caught:
            await world.fork(template)
    assert caught.value.code is ErrorCode.VMM_FAILED
    assert not list(world.vms_dir.iterdir())


@pytest.mark.parametrize(
    "faults",
    [{"faults": ["reject"]}, {"dies": {"PUT /snapshot/load": 1}}, {"litter": ["channel"]}],
    ids=["guest_rejects", "monitor_dies", "load_fails"],
)
async def test_a_fork_that_fails_is_forgotten_and_may_be_recorded_again(
    world: World, pager: FakePager, faults: dict[str, Any]
) -> None:
    async with world.template() as template, paged(world, pager.path, forks=1) as told:
        world.stand_in.set(unserved_image=IMAGE, **faults)
        with pytest.raises(PeerError):
            await world.fork(template)
        assert pager.machines == {}
        world.stand_in.set(unserved_image=IMAGE)
        started = await world.fork(template, "s-2")
        assert pager.machines["s-2"].order["record"]
        await end(started)
    assert told.events[0] == "working_set.recorded"


async def test_a_machine_that_is_left_to_a_successor_gives_its_recording_up(
    world: World, pager: FakePager
) -> None:
    async with world.template() as template, paged(world, pager.path) as told:
        world.stand_in.set(unserved_image=IMAGE)
        started = await world.fork(template)
        started.channel.sock.close()
        started.vm.release()
        machine = world.driver.adopt(started.vm.record)
        assert machine is not None
        await machine.kill()
        await asyncio.to_thread(os.waitpid, started.vm.record.pid, 0)
        await asyncio.sleep(0)
    assert told.events == []


@pytest.mark.parametrize("after_s", [0.1, 0.15, 0.2, 0.3, 0.5])
async def test_a_fork_that_is_cancelled_anywhere_is_forgotten(
    world: World, pager: FakePager, after_s: float
) -> None:
    async with world.template() as template, paged(world, pager.path):
        world.stand_in.set(unserved_image=IMAGE)
        starting = asyncio.create_task(world.fork(template))
        await asyncio.sleep(after_s)
        starting.cancel()
        (outcome,) = await asyncio.gather(starting, return_exceptions=True)
        if not isinstance(outcome, BaseException):
            await end(outcome)
            await pager.answer({"op": "forget", "vm": "s-1"})
        assert pager.machines == {}
    assert world.driver.find_all() == []


# -- the real one ---------------------------------------------------------------------------------


async def write_image(world: World, template: LoadedTemplate) -> None:
    """On disk, where working sets are made from."""
    size_bytes = template.manifest.memory.size_bytes
    data = os.pread(template.memory_fd, size_bytes, 0)
    (world.root / "templates/python/memory").write_bytes(data)


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")
async def test_the_real_page_server_records_installs_and_dies_without_a_guest_noticing(
    world: World,
) -> None:
    async with (
        PageServer(world.root) as server,
        world.template() as template,
        paged(world, server.control, forks=1) as told,
    ):
        await write_image(world, template)
        client = PagerClient(server.control)
        recorded = await world.fork(template)
        async with talking(recorded) as channel:
            assert await run(channel, "print(guest.identity['session_id'])") == "s-1\n"
            (facts,) = (await client.stats()).machines
            assert (facts.method, facts.working_set, facts.prefetched) == ("demand", 0, 0)
            assert facts.faults >= 2, "the guest, and the end of its memory"
        async with asyncio.timeout(10):
            while "working_set.made" not in told.events:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        installed = await world.fork(template, "s-2")
        async with talking(installed) as channel:
            (facts,) = (await client.stats()).machines
            assert facts.method == "install-before"
            assert facts.prefetched >= 2
            assert facts.faults == 0
            await server.kill()
            await server.start()
            code = "print(len(bytes(guest.memory.map)), guest.memory.map[12288:12292])"
            assert await run(channel, code) == f"{4 << 20} b'\\x00\\x00\\x00\\x00'\n"


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")
async def test_a_served_machine_keeps_no_descriptor_of_ours(world: World) -> None:
    async with (
        PageServer(world.root) as server,
        world.template() as template,
        paged(world, server.control, forks=9),
    ):
        for vm_id in ("s-1", "s-2"):
            before = open_fds()
            started = await world.fork(template, vm_id)
            await end(started)
        assert open_fds() == before
