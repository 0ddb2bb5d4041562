"""The page server dies, its machines do not; what nobody can take over is stopped at once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from agentd.errors import PermanentError
from tests.torture.keeper import Kept
from tests.torture.pager import PagerFiles, PagerHost
from tests.torture.programs import Programs
from tests.torture.standin import MachineLostError, StandIn

from .service import PAGE, PAGES, PATIENCE_S, Service, service_of

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="userfaultfds of a guest's memory need root"),
]

HUGE = 2 << 20
TOUCHES = 1500
STEPS = ["receive", "copy", "remove-read", "remove-recorded"]


@pytest.fixture
def work_dir() -> Iterator[Path]:
    """Short enough for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="pager-") as made:
        yield Path(made)


@pytest.fixture
async def kept(programs: Programs, work_dir: Path) -> AsyncIterator[Service]:
    """A page server with a keeper."""
    async with service_of(programs, work_dir, has_keeper=True) as service:
        yield service


@pytest.fixture
async def alone(programs: Programs, work_dir: Path) -> AsyncIterator[Service]:
    """A page server whose machines' monitors alone hold their descriptors."""
    async with service_of(programs, work_dir, has_keeper=False) as service:
        yield service


async def assert_whole(machine: StandIn) -> None:
    """Every byte of every page is right."""
    said = await machine.say("verify")
    assert (said.pages, said.wrong) == (PAGES, 0)


# -- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("protocol", ["firecracker", "memfd"])
@pytest.mark.parametrize("options", [(), ("--no-hold",)], ids=["monitor-holds", "keeper-holds"])
async def test_death_at_a_step_harms_no_machine(
    kept: Service, step: str, protocol: str, options: tuple[str, ...]
) -> None:
    await kept.begin()
    machine = await kept.machine("a", protocol, *options)
    await kept.served("a")
    assert await kept.end(signal.SIGTERM) == 0
    await kept.begin(f"{step}:3")
    touching = asyncio.create_task(machine.say(f"random {TOUCHES}"))
    await kept.died()
    assert not touching.done()
    await kept.begin()
    assert (await touching).wrong == 0
    await assert_whole(machine)


@pytest.mark.parametrize("protocol", ["firecracker", "memfd"])
async def test_death_without_a_keeper_harms_no_machine(alone: Service, protocol: str) -> None:
    await alone.begin()
    machine = await alone.machine("a", protocol)
    assert (await alone.served("a")).kept_by == "vmm"
    touching = asyncio.create_task(machine.say(f"random {TOUCHES}"))
    assert await alone.end(signal.SIGKILL) == -signal.SIGKILL
    await alone.begin()
    assert (await touching).wrong == 0
    await assert_whole(machine)


async def test_callers_wait_at_a_socket_that_the_keeper_listens_on(kept: Service) -> None:
    """As a socket unit of systemd does: nobody is refused while there is no page server."""
    assert kept.host.keeper is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(kept.files.control))
        listener.listen()
        kept.host.keeper.kept.append(Kept("control", os.dup(listener.fileno())))
    place = kept.files.control.stat()
    for _ in range(2):
        asking = asyncio.create_task(kept.host.client.hello(deadline_s=PATIENCE_S))
        await kept.begin()
        assert (await asking).pid == kept.host.pid
        assert await kept.end(signal.SIGKILL) == -signal.SIGKILL
    assert os.path.samestat(kept.files.control.stat(), place), "it was not replaced"


async def test_death_after_the_journal_was_written_leaves_a_machine_served(kept: Service) -> None:
    await kept.begin("journal:1")
    machine = await kept.machine("a")
    await kept.died()
    await kept.begin()
    assert (await kept.served("a")).pid == machine.pid
    await assert_whole(machine)


async def test_death_before_the_journal_was_written_leaves_it_unknown(kept: Service) -> None:
    """Whoever starts machines begins anew then; the successor has ended it if it had it."""
    await kept.begin("receive:1")
    await kept.machine("a")
    await kept.died()
    await kept.begin()
    with pytest.raises(Exception, match="no such machine"):
        await kept.served("a")


async def test_death_while_taking_over_harms_no_machine(kept: Service) -> None:
    await kept.begin()
    machines = [await kept.machine(f"m{number}") for number in range(3)]
    for number in range(3):
        await kept.served(f"m{number}")
    touching = [asyncio.create_task(one.say(f"random {TOUCHES}")) for one in machines]
    await kept.end(signal.SIGKILL)
    for passes in (1, 2, 3):
        kept.host.start(f"wake:{passes}")
        await kept.died()
    await kept.begin()
    assert [said.wrong for said in await asyncio.gather(*touching)] == [0, 0, 0]
    for one in machines:
        await assert_whole(one)


async def test_removed_pages_stay_zero_over_a_death(kept: Service) -> None:
    """Given back before it, asked for after it."""
    trace = kept.files.work_dir / "trace"
    trace.write_text("".join(f"{page} r\n{page} d\n" for page in range(PAGES)))
    await kept.begin()
    machine = await kept.machine("a", "firecracker", "--trace", str(trace))
    await kept.served("a")
    assert (await machine.say("run")).wrong == 0
    await kept.end(signal.SIGKILL)
    await kept.begin()
    await assert_whole(machine)


async def test_machine_waits_while_there_is_no_page_server(kept: Service) -> None:
    """It neither ends nor reads zeros."""
    await kept.begin()
    machine = await kept.machine("a")
    await kept.served("a")
    await kept.end(signal.SIGTERM)
    verifying = asyncio.create_task(machine.say("verify"))
    await asyncio.sleep(0.3)
    assert not verifying.done()
    await kept.begin()
    assert (await verifying).wrong == 0


async def test_successor_waits_for_its_predecessor(kept: Service, programs: Programs) -> None:
    await kept.begin()
    machine = await kept.machine("a")
    first = (await kept.host.client.hello()).pid
    files = PagerFiles(kept.files.work_dir, kept.files.journal_dir)
    successor = PagerHost(programs, files, None)
    try:
        successor.start()
        assert not await successor.ended(within_s=0.2)
        assert (await kept.host.client.hello()).pid == first
        await kept.end(signal.SIGKILL)
        await successor.ready()
        assert (await kept.host.client.hello()).pid == successor.pid
        await assert_whole(machine)
    finally:
        await successor.close()


async def test_supervisor_begins_it_anew_with_what_it_keeps(
    programs: Programs, work_dir: Path
) -> None:
    async with service_of(programs, work_dir, has_keeper=False, command="supervise") as service:
        await service.begin()
        machine = await service.machine("a", "memfd", "--no-hold")
        assert (await service.served("a")).kept_by in ("keeper", "both")
        for _ in range(3):
            serving = (await service.host.client.hello()).pid
            touching = asyncio.create_task(machine.say("random 300"))
            os.kill(serving, signal.SIGKILL)
            assert (await touching).wrong == 0
            assert (await service.host.client.hello()).pid != serving
        await assert_whole(machine)
        assert await service.end(signal.SIGTERM) == 0


@pytest.fixture
def huge_pages() -> Iterator[str]:
    """Regions of huge pages, as long as the test has some. Skips where there are none."""
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = pool.read_text()
    try:
        pool.write_text("6")
        if int(pool.read_text()) < 6:
            pytest.skip("there is no memory for huge pages")
        yield f"{HUGE}h,{2 * HUGE}h"
    finally:
        pool.write_text(before)


async def test_death_harms_no_machine_of_huge_pages(kept: Service, huge_pages: str) -> None:
    pages = 3 * HUGE // PAGE
    await kept.begin()
    image = kept.image("huge", pages=pages)
    machine = await kept.machine("a", image=image, regions=huge_pages)
    assert (await kept.served("a")).pages == 3
    touching = asyncio.create_task(machine.say("random 600"))
    await kept.end(signal.SIGKILL)
    await kept.begin()
    assert (await touching).wrong == 0
    said = await machine.say("verify")
    assert (said.pages, said.wrong) == (pages, 0)


# -- what cannot be taken over --------------------------------------------------------------------


async def test_machine_that_nobody_could_take_over_is_stopped_at_once(alone: Service) -> None:
    """Its monitor has let go of the userfaultfd before the page server looks."""
    await alone.begin()
    machine = await alone.expected("a", "firecracker", "--no-hold")
    alone.host.signal(signal.SIGSTOP)
    assert (await machine.say("connect")).ok
    alone.host.signal(signal.SIGCONT)
    with pytest.raises(PermanentError, match="nobody else holds its userfaultfd"):
        await alone.served("a")
    assert await machine.ended() == -signal.SIGKILL


async def test_only_the_machine_whose_image_changed_is_stopped(kept: Service) -> None:
    await kept.begin()
    changed = kept.image("changed")
    machine = await kept.machine("a", image=changed)
    other = await kept.machine("b")
    for vm in ("a", "b"):
        await kept.served(vm)
    await kept.end(signal.SIGKILL)
    os.truncate(changed, PAGE)
    await kept.begin()
    assert await machine.ended() == -signal.SIGKILL
    assert "image" in (await kept.reasons())["a"]
    await assert_whole(other)


async def test_image_cut_under_a_machine_stops_only_that_one(kept: Service) -> None:
    await kept.begin()
    cut = kept.image("cut")
    machine = await kept.machine("a", image=cut)
    other = await kept.machine("b")
    for vm in ("a", "b"):
        await kept.served(vm)
    os.truncate(cut, PAGE)
    with pytest.raises(MachineLostError):
        await machine.say("verify")
    assert await machine.ended() == -signal.SIGKILL
    assert "image" in (await kept.reasons())["a"]
    await assert_whole(other)


@pytest.mark.parametrize("protocol", ["firecracker", "memfd"])
async def test_a_monitor_that_is_forgotten_while_it_lives_is_ended(
    kept: Service, protocol: str
) -> None:
    await kept.begin()
    machine, other = await kept.machine("a", protocol), await kept.machine("b", protocol)
    for vm in ("a", "b"):
        await kept.served(vm)
    await kept.host.client.forget("a")
    assert await machine.ended() == -signal.SIGKILL
    await assert_whole(other)
