"""Clones that cannot map their template, whose memory a page server fills."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from agentd.errors import PeerError, SnapStartError
from agentd.pager.client import Pager, PagerClient
from agentd.pager.places import own_binary
from agentd.pager.working_sets import WorkingSets
from agentd.store.loaded import LoadedTemplate
from agentd.vmm.cloud_hypervisor_versions import SHARING
from agentd.vmm.paging import Paging
from agentd.wire.pager import MachineStats
from tests.adapters.vmm.page_server import PageServer, why_not
from tests.conftest import open_fds
from tests.fakes.cloud_hypervisor import build_launcher
from tests.fakes.cloud_hypervisor_lab import DEADLINE_S, Lab, Session, is_as_sealed
from tests.fakes.cloud_hypervisor_pager import FakePager

RECORDED = 2


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_launcher(tmp_path_factory.mktemp("launcher"))


@pytest.fixture
def pager() -> FakePager:
    return FakePager()


@dataclass
class Site:
    """A driver whose clones cannot map their template, with a page server; what it recorded."""

    lab: Lab
    sets: WorkingSets
    told: list[str]

    @asynccontextmanager
    async def template(self) -> AsyncIterator[LoadedTemplate]:
        template = await self.lab.freeze()
        directory = self.lab.directory / "templates" / template.manifest.name
        directory.mkdir(parents=True)
        (directory / "memory").write_bytes(_content(template))
        try:
            yield template
        finally:
            await self.lab.driver.finish()
            template.close()


@pytest.fixture
def site(
    launcher: Path, tmp_path: Path, pager: FakePager, request: pytest.FixtureRequest
) -> Iterator[Site]:
    version = getattr(request, "param", "v53.0")
    with _site(launcher, tmp_path, pager, version) as opened:
        yield opened


@contextmanager
def _site(launcher: Path, root: Path, pager: Pager, version: str = "v53.0") -> Iterator[Site]:
    told: list[str] = []
    sets = WorkingSets(own_binary(), 1000, RECORDED, lambda event, /, **_: told.append(event))
    paging = Paging(pager, sets, root / "templates", record_s=30.0)
    with Lab(launcher, root, version, paging=paging, can_fault=True) as lab:
        lab.driver._restorer._spoiled |= SHARING
        yield Site(lab, sets, told)


def _content(template: LoadedTemplate) -> bytes:
    return Path(f"/proc/self/fd/{template.memory_fd}").read_bytes()


def modes_of(logged: list[structlog.typing.EventDict]) -> list[str]:
    return [entry["mode"] for entry in logged if entry["event"] == "vmm.restored"]


async def facts_of(client: PagerClient, session: Session) -> MachineStats:
    """What the page server says of a clone."""
    machines = (await client.stats()).machines
    (facts,) = [one for one in machines if one.vm == session.vm.record.vm_id]
    return facts


async def served(pager: FakePager) -> None:
    """The monitors are gone: so are their connections."""
    await asyncio.wait_for(asyncio.gather(*pager.serving, return_exceptions=True), 20)


async def test_a_page_server_gives_a_clone_its_memory(site: Site, pager: FakePager) -> None:
    async with site.template() as template:
        with structlog.testing.capture_logs() as logged:
            async with site.lab.session(template) as session:
                assert await session.run("print(guest.gate)") == "open\n"
                (order,) = pager.offers
                record, run_dir = session.vm.record, session.vm.record.run_dir
                assert (order.vm, order.image) == (record.vm_id, f"/proc/{record.pid}/fd/12")
                sent = Path(order.config), Path(order.state)
                assert {path.parent for path in sent} == {run_dir}, "its user cannot reach it"
                assert not {path.name for path in sent} & set(os.listdir(run_dir)), "not kept"
        assert modes_of(logged) == ["Offload"]
        assert pager.faults > 0
        assert pager.forgotten == []
        assert is_as_sealed(template)
        await served(pager)


async def test_the_first_clones_are_recorded_and_take_no_more_than_they_touch(
    site: Site, pager: FakePager
) -> None:
    async with site.template() as template:
        async with site.lab.session(template) as session:
            (order,) = pager.offers
            assert order.record.endswith(f".{session.vm.record.vm_id}.record")
            assert order.demand_only
            assert pager.recorded == []
        assert pager.recorded == [order.vm], "while its guest lived"
        await served(pager)


async def test_with_nothing_to_know_and_nothing_known_the_monitor_reads_pages_itself(
    site: Site, pager: FakePager
) -> None:
    async with site.template() as template:
        async with site.lab.session(template), site.lab.session(template):
            with structlog.testing.capture_logs() as logged:
                async with site.lab.session(template) as session:
                    assert await session.run("print(guest.gate)") == "open\n"
        assert modes_of(logged) == ["OnDemand"]
        assert len(pager.offers) == RECORDED
        await served(pager)


async def test_a_clone_that_can_map_its_template_asks_no_page_server(
    site: Site, pager: FakePager
) -> None:
    site.lab.driver._restorer._spoiled.clear()
    async with site.template() as template:
        with structlog.testing.capture_logs() as logged:
            async with site.lab.session(template) as session:
                assert await session.run("print(guest.gate)") == "open\n"
        assert modes_of(logged) == ["Mapped"]
        assert pager.offers == []


async def test_a_page_server_that_takes_no_order_costs_a_fork_nothing(
    site: Site, pager: FakePager
) -> None:
    pager.refuses = True
    async with site.template() as template:
        with structlog.testing.capture_logs() as logged:
            async with site.lab.session(template) as session:
                assert await session.run("print(guest.gate)") == "open\n"
        assert modes_of(logged) == ["OnDemand"]
        (warning,) = [entry for entry in logged if entry["event"] == "vmm.memory.unserved"]
        assert "no descriptors are left" in warning["error"]
        pager.refuses = False
        async with site.lab.session(template), site.lab.session(template):
            assert len(pager.offers) == RECORDED, "its record was given up"
        await served(pager)


async def test_a_start_that_fails_before_the_page_server_is_asked_gives_its_record_up(
    site: Site, pager: FakePager
) -> None:
    async with site.template() as template:
        for _ in range(RECORDED):
            spec = site.lab.fork_spec()
            (spec.run_dir / "migration.json").mkdir()
            with pytest.raises(SnapStartError, match="exists"):
                await site.lab.driver.fork(template, spec, deadline_s=DEADLINE_S)
        assert pager.offers == []
        async with site.lab.session(template):
            (order,) = pager.offers
            assert order.record
        await served(pager)


async def test_a_page_server_that_hangs_up_ends_the_fork(site: Site, pager: FakePager) -> None:
    async with site.template() as template:
        pager.gives_up = True
        before = open_fds()
        with pytest.raises(PeerError) as caught:
            await site.lab.fork(template)
        assert "Migration was aborted" in caught.value.message or "hung up" in caught.value.message
        assert pager.forgotten == [pager.offers[0].vm]
        assert site.lab.left() == []
        await asyncio.sleep(0.01)
        assert open_fds().keys() == before.keys()


async def test_a_fork_that_is_cancelled_is_forgotten_by_the_page_server(
    site: Site, pager: FakePager
) -> None:
    async with site.template() as template:
        site.lab.stand_in.set(["hang@vm.receive-migration"])
        forking = asyncio.create_task(site.lab.fork(template))
        async with asyncio.timeout(20):
            while not pager.offers:  # noqa: ASYNC110 - the stand-in knows no event of ours
                await asyncio.sleep(0.01)
        forking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forking
        assert pager.forgotten == [pager.offers[0].vm]
        assert site.lab.left() == []


async def test_a_guest_that_rejects_its_identity_is_forgotten_by_the_page_server(
    site: Site, pager: FakePager
) -> None:
    async with site.template() as template:
        site.lab.stand_in.set(["reject"])
        with pytest.raises(PeerError):
            await site.lab.fork(template)
        assert pager.forgotten == [pager.offers[0].vm]
        assert site.lab.left() == []
        await served(pager)


@pytest.mark.parametrize("site", ["v52.0"], indirect=True)
async def test_a_version_without_the_protocol_does_without_the_page_server(
    site: Site, pager: FakePager
) -> None:
    async with site.template() as template:
        with structlog.testing.capture_logs() as logged:
            async with site.lab.session(template) as session:
                assert await session.run("print(guest.gate)") == "open\n"
        assert modes_of(logged) == ["OnDemand"]
        assert pager.offers == []


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can")
async def test_the_real_page_server_records_clones_and_installs_what_they_touched(
    launcher: Path, tmp_path: Path
) -> None:
    async with PageServer(tmp_path, "supervise") as server:
        client = PagerClient(server.control)
        with _site(launcher, tmp_path, client) as site:
            async with site.template() as template:
                for _ in range(RECORDED):
                    async with site.lab.session(template) as session:
                        facts = await facts_of(client, session)
                        assert (facts.protocol, facts.state) == ("offload", "serving")
                        assert facts.faults > 0
                        assert facts.working_set == 0
                        assert await session.run("print(guest.gate)") == "open\n"
                async with asyncio.timeout(20):
                    while "working_set.made" not in site.told:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                with structlog.testing.capture_logs() as logged:
                    async with site.lab.session(template) as session:
                        facts = await facts_of(client, session)
                        assert facts.working_set > 0
                        assert facts.prefetched > 0
                        assert await session.run("print(guest.gate)") == "open\n"
                assert modes_of(logged) == ["Offload"]
                assert is_as_sealed(template)
