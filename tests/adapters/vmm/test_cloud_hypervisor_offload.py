"""Clones whose memory a page server fills."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from agentd.errors import PeerError
from tests.conftest import open_fds
from tests.fakes.cloud_hypervisor import build_launcher
from tests.fakes.cloud_hypervisor_lab import Lab, is_as_sealed
from tests.fakes.cloud_hypervisor_pager import FakePager


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_launcher(tmp_path_factory.mktemp("launcher"))


@pytest.fixture
def pager() -> FakePager:
    return FakePager()


@pytest.fixture
def lab(
    launcher: Path, tmp_path: Path, pager: FakePager, request: pytest.FixtureRequest
) -> Iterator[Lab]:
    version = getattr(request, "param", "v53.0")
    with Lab(launcher, tmp_path, version, offload=pager) as opened:
        yield opened


def modes_of(logged: list[structlog.typing.EventDict]) -> list[str]:
    return [entry["mode"] for entry in logged if entry["event"] == "vmm.restored"]


async def served(pager: FakePager) -> None:
    """The monitors are gone: so are their connections."""
    await asyncio.wait_for(asyncio.gather(*pager.serving), 20)


async def test_a_page_server_gives_a_clone_its_memory(lab: Lab, pager: FakePager) -> None:
    template = await lab.freeze()
    with structlog.testing.capture_logs() as logged:
        async with lab.session(template) as session:
            assert await session.run("print(guest.gate)") == "open\n"
            (offer,) = pager.offers
            assert offer.vm_id == session.vm.record.vm_id
            assert offer.template_id == template.manifest.template_id
            assert not offer.config.exists(), "what was sent is not kept"
    assert modes_of(logged) == ["Offload"]
    assert pager.faults > 0
    assert pager.forgotten == []
    assert is_as_sealed(template)
    await served(pager)
    template.close()


async def test_a_page_server_that_hangs_up_ends_the_fork(lab: Lab, pager: FakePager) -> None:
    template = await lab.freeze()
    pager.gives_up = True
    before = open_fds()
    with pytest.raises(PeerError, match=r"vm\.receive-migration") as caught:
        await lab.fork(template)
    assert "Migration was aborted" in caught.value.message
    assert pager.forgotten == [pager.offers[0].vm_id]
    assert lab.left() == []
    await asyncio.sleep(0.01)
    assert open_fds().keys() == before.keys()
    template.close()


async def test_a_fork_that_is_cancelled_is_forgotten_by_the_page_server(
    lab: Lab, pager: FakePager
) -> None:
    template = await lab.freeze()
    lab.stand_in.set(["hang@vm.receive-migration"])
    forking = asyncio.create_task(lab.fork(template))
    async with asyncio.timeout(20):
        while not pager.offers:  # noqa: ASYNC110 - the stand-in knows no event of ours
            await asyncio.sleep(0.01)
    forking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await forking
    assert pager.forgotten == [pager.offers[0].vm_id]
    assert lab.left() == []
    template.close()


@pytest.mark.parametrize("lab", ["v52.0"], indirect=True)
async def test_a_version_without_the_protocol_does_without_the_page_server(
    lab: Lab, pager: FakePager
) -> None:
    template = await lab.freeze()
    with structlog.testing.capture_logs() as logged:
        async with lab.session(template) as session:
            assert await session.run("print(guest.gate)") == "open\n"
    assert modes_of(logged) == ["Mapped"]
    assert pager.offers == []
    template.close()
