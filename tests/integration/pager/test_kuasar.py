"""Kuasar's machines: nobody announces them, nobody records them, nobody else ends them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.torture.programs import Programs
from tests.torture.standin import MachineLostError, StandIn

from .kuasar_node import PAGE, PAGES, KuasarNode, Sanitized, node_of, until
from .malicious.pager_process import build_pager

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="userfaultfds of a guest's memory need root"),
]

# In an order that is not that of the image, with pages of zeros among them.
TOUCHED = [*range(400, 440), *range(10, 50), 7, 511, 200]
INSTALLED = ("install-before", "install-while")


@pytest.fixture(scope="module")
def sanitized(programs: Programs) -> Programs:
    return Sanitized(programs.directory, build_pager())


@pytest.fixture
async def node(sanitized: Programs) -> AsyncIterator[KuasarNode]:
    """Its machines keep their userfaultfds."""
    async with node_of(sanitized) as node:
        yield node


@pytest.fixture
async def kept(sanitized: Programs) -> AsyncIterator[KuasarNode]:
    """With a keeper."""
    async with node_of(sanitized, has_keeper=True) as node:
        yield node


# -- recording ------------------------------------------------------------------------------------


async def test_three_machines_are_recorded_and_the_fourth_gets_their_pages_unasked(
    node: KuasarNode,
) -> None:
    await node.begin()
    image, trace = node.template(), node.trace("trace", TOUCHED)
    await node.set_made(image, trace)
    machine = await node.machine("fourth", image, "--trace", str(trace))
    serving = await node.served("fourth")
    assert serving.method in INSTALLED
    assert (await machine.say("run")).wrong == 0
    await node.assert_whole(machine)
    [stats] = (await node.host.client.stats()).machines
    assert stats.working_set == len(TOUCHED)
    assert stats.prefetched == len(TOUCHED)
    [made] = node.told("working_set.made")
    assert (made["image"], made["pages"]) == (str(image), len(TOUCHED))
    assert (made["precision"], made["recall"]) == (1, 1)
    assert await node.end(signal.SIGTERM) == 0


async def test_recording_ends_after_its_time_and_the_machine_goes_on(node: KuasarNode) -> None:
    node.host.records, node.host.record_s = 1, 0.5
    await node.begin()
    image, trace = node.template(), node.trace("trace", TOUCHED)
    first = await node.machine("first", image, "--trace", str(trace))
    assert await node.is_recorded("first")
    assert (await first.say("run")).wrong == 0
    await until(lambda: node.kept(".set"), "its recording does not end")
    second = await node.machine("second", image)
    assert (await node.served("second")).method in INSTALLED
    for machine in (first, second):
        assert (await machine.say("random 1000")).wrong == 0
        await node.assert_whole(machine)


async def test_no_more_machines_are_recorded_than_are_needed(node: KuasarNode) -> None:
    await node.begin()
    image = node.template()
    names = [f"vm-{number}" for number in range(5)]
    machines = [await node.machine(name, image) for name in names]
    assert [await node.is_recorded(name) for name in names] == [True] * 3 + [False] * 2
    for machine in machines:
        await node.assert_whole(machine)


async def test_machine_that_touches_nothing_is_no_record(node: KuasarNode) -> None:
    node.host.records = 1
    await node.begin()
    image, trace = node.template(), node.trace("trace", TOUCHED)
    idle = await node.machine("idle", image)
    assert await node.is_recorded("idle")
    idle.kill()
    await until(lambda: node.told("vm.ended"), "its end is not seen")
    await node.set_made(image, trace)


async def test_machine_that_is_killed_while_it_is_recorded_costs_nobody_anything(
    node: KuasarNode,
) -> None:
    node.host.records = 2
    await node.begin()
    image = node.template()
    machines = [await node.machine(f"vm-{number}", image) for number in range(3)]
    for number in range(3):
        await node.served(f"vm-{number}")
    touching = asyncio.create_task(machines[0].say("random 100000"))
    assert (await machines[1].say("random 500")).wrong == 0
    machines[0].kill()
    await asyncio.gather(touching, return_exceptions=True)
    machines[1].kill()
    await until(lambda: node.kept(".set"), "no working set is made of what they touched")
    late = await node.machine("late", image)
    assert (await node.served("late")).method in INSTALLED
    for machine in (machines[2], late):
        await node.assert_whole(machine)
    assert await node.end(signal.SIGTERM) == 0


async def test_forgotten_machines_record_is_kept(node: KuasarNode) -> None:
    node.host.records = 1
    await node.begin()
    image, trace = node.template(), node.trace("trace", TOUCHED)
    machine = await node.machine("vm", image, "--trace", str(trace))
    await node.served("vm")
    await machine.say("run")
    await node.host.client.forget("vm")
    await until(lambda: node.kept(".set"), "its record is lost")


@pytest.mark.parametrize("kind", ["its own", "used up"])
async def test_image_that_nobody_else_comes_from_is_not_recorded(
    node: KuasarNode, kind: str
) -> None:
    await node.begin()
    image = node.template()
    path = node.sandbox("vm", image)
    if kind == "its own":
        path.unlink()
        image.rename(path)
    else:
        (image.parent.parent / "consumed").touch()
    machine = await node.monitor(path)
    assert (await machine.say("connect")).ok
    assert not await node.is_recorded("vm")
    await node.assert_whole(machine)
    assert node.kept("") == []


# -- images that change ---------------------------------------------------------------------------


async def test_working_set_of_an_image_that_was_replaced_is_dropped(node: KuasarNode) -> None:
    await node.begin()
    trace = node.trace("trace", TOUCHED)
    image = node.template(place="template")
    old = await node.set_made(image, trace)
    assert node.template(seed=10, place="template") == image
    new = await node.set_made(image, trace)
    assert new != old
    await until(lambda: node.kept(".set") == [new], "the old working set stayed")
    assert len(node.kept(".path")) == 1
    machine = await node.machine("vm", image)
    assert (await node.served("vm")).method in INSTALLED
    await node.assert_whole(machine)


async def test_working_sets_of_images_that_are_gone_are_dropped_by_the_next_page_server(
    node: KuasarNode,
) -> None:
    await node.begin()
    trace = node.trace("trace", TOUCHED)
    gone, stays = node.template(), node.template(seed=10)
    await node.set_made(gone, trace)
    kept = await node.set_made(stays, trace)
    assert await node.end(signal.SIGTERM) == 0
    shutil.rmtree(gone.parent.parent)
    strange = [node.sets_dir / name for name in ("somebody's", f"{'0' * 63}.set")]
    for path in strange:
        path.touch()
    halves = ("set.a1b2c3", "0.record.a1b2c3", "0.record", "spoilt")
    for suffix in halves:
        (node.sets_dir / kept.replace("set", suffix)).touch()
    (node.sets_dir / f"{'0' * 64}.set").touch()
    await node.begin()
    assert node.kept("") == sorted(
        [kept, kept.replace("set", "path"), *(path.name for path in strange)]
    )
    await node.machine("vm", stays)
    assert (await node.served("vm")).method in INSTALLED


async def test_image_that_changes_while_it_is_recorded_is_given_up(node: KuasarNode) -> None:
    """Its machine is stopped, as any whose image changes. It has no working set."""
    node.host.records = 1
    await node.begin()
    image = node.template()
    machine = await node.machine("vm", image)
    assert await node.is_recorded("vm")
    assert (await machine.say("random 50")).wrong == 0
    os.utime(image, ns=(1, 1))
    touching = asyncio.create_task(machine.say("verify"))
    assert await machine.ended() == -signal.SIGKILL
    await asyncio.gather(touching, return_exceptions=True)
    await until(lambda: node.told("working_set.failed"), "nobody hears of it")
    assert node.kept(".set") == []
    other = await node.machine("other", image)
    await node.assert_whole(other)


# -- deaths of the page server --------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--no-hold",)], ids=["monitor-holds", "keeper-holds"])
async def test_death_in_the_middle_of_recordings_hurts_nobody(
    kept: KuasarNode, options: tuple[str, ...]
) -> None:
    """What was written before it counts; what was under way is recorded of others."""
    node, node.host.records = kept, 2
    await node.begin()
    image, trace = node.template(), node.trace("trace", TOUCHED)
    await node.live("before", image, trace)
    await until(lambda: node.kept(".record"), "no record was written")
    machine = await node.machine("during", image, *options)
    assert await node.is_recorded("during")
    touching = asyncio.create_task(machine.say("random 2000"))
    await node.end(signal.SIGKILL)
    await node.begin()
    assert (await touching).wrong == 0
    await node.assert_whole(machine)
    assert await machine.quit() == 0
    await until(lambda: node.told("vm.ended"), "its end is not seen")
    assert node.kept(".set") == []
    assert "is recorded" in (await node.live("after", image, trace)).why
    await until(lambda: node.kept(".set"), "no working set was made")
    late = await node.machine("late", image, *options)
    assert (await node.served("late")).method in INSTALLED
    await node.assert_whole(late)


async def test_end_in_the_middle_of_recordings_is_clean(node: KuasarNode) -> None:
    await node.begin()
    image = node.template()
    machines = [await node.machine(f"vm-{number}", image) for number in range(2)]
    for number, machine in enumerate(machines):
        assert await node.is_recorded(f"vm-{number}")
        assert (await machine.say("random 200")).wrong == 0
    assert await node.end(signal.SIGTERM) == 0
    await node.begin()
    for machine in machines:
        await node.assert_whole(machine)
    assert node.kept(".record") == []


async def test_records_that_a_page_server_left_unmerged_are_merged(node: KuasarNode) -> None:
    await node.begin()
    image, trace = node.template(), node.trace("trace", TOUCHED)
    for number in range(2):
        await node.live(f"vm-{number}", image, trace)
    await until(lambda: len(node.kept(".record")) == 2, "no records were written")
    await node.end(signal.SIGKILL)
    node.host.records = 2
    await node.begin()
    first = await node.machine("first", image)
    assert (await node.served("first")).method == "demand"
    await until(lambda: node.kept(".set") and not node.kept(".record"), "they are not merged")
    await node.assert_whole(first)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_end_of_the_page_server_is_the_end_of_a_merge(
    node: KuasarNode, number: signal.Signals
) -> None:
    """Neither waits for the other, and what was not made is made later."""
    node.host.records, node.host.slow_s = 1, 5
    await node.begin()
    image, trace = node.template(), node.trace("trace", TOUCHED)
    await node.live("first", image, trace)
    await until(node.mergers, "no merge begins")
    [merger] = node.mergers()
    assert await node.end(number) == (0 if number == signal.SIGTERM else -number)
    await until(lambda: not Path(f"/proc/{merger}").exists(), "the merge goes on")
    assert node.kept(".set") == []
    node.host.slow_s = 0
    await node.begin()
    assert "is recorded" not in (await node.live("second", image, trace)).why
    await until(lambda: node.kept(".set"), "it is not merged")


async def test_supervised_machine_is_served_over_deaths_whatever_its_monitor_keeps(
    sanitized: Programs,
) -> None:
    async with node_of(sanitized, command="supervise") as node:
        node.host.records = 1
        await node.begin()
        image, trace = node.template(), node.trace("trace", TOUCHED)
        await node.set_made(image, trace)
        machine = await node.machine("vm", image, "--no-hold")
        assert (await node.served("vm")).kept_by in ("keeper", "both")
        for _ in range(2):
            serving = (await node.host.client.hello()).pid
            touching = asyncio.create_task(machine.say("random 300"))
            os.kill(serving, signal.SIGKILL)
            assert (await touching).wrong == 0
        await node.assert_whole(machine)
        assert await node.end(signal.SIGTERM) == 0


# -- what fails -----------------------------------------------------------------------------------


async def test_directory_that_cannot_be_costs_nothing_but_the_working_sets(
    node: KuasarNode,
) -> None:
    node.host.sets_dir = node.files.work_dir / "file"
    node.host.sets_dir.touch()
    await node.begin()
    image, trace = node.template(), node.trace("trace", TOUCHED)
    for number in range(3):
        assert "is recorded" not in (await node.live(f"vm-{number}", image, trace)).why
    [failed] = node.told("working_set.failed")
    assert failed["directory"] == str(node.host.sets_dir)


async def test_directory_that_is_lost_is_told_once_for_an_image(node: KuasarNode) -> None:
    await node.begin()
    node.sets_dir.rmdir()
    image, trace = node.template(), node.trace("trace", TOUCHED)
    for number in range(4):
        await node.live(f"vm-{number}", image, trace)
        await until(lambda: node.told("working_set.failed"), "nobody hears of it")
    assert len(node.told("working_set.failed")) == 1
    assert not await _is_next_recorded(node, image)


async def test_damaged_record_costs_nothing_but_the_working_set(node: KuasarNode) -> None:
    node.host.records = 2
    await node.begin()
    image, trace = node.template(), node.trace("trace", TOUCHED)
    await node.live("first", image, trace)
    await until(lambda: node.kept(".record"), "no record was written")
    _flip(node.sets_dir / node.kept(".record")[0], 80)
    await node.live("second", image, trace)
    await until(lambda: node.told("working_set.failed"), "nobody hears of it")
    [failed] = node.told("working_set.failed")
    assert "damaged" in failed["why"]
    await until(lambda: node.kept("") == [], "what failed stayed")
    assert not await _is_next_recorded(node, image)


async def test_damaged_working_set_is_made_anew(node: KuasarNode) -> None:
    node.host.records = 1
    await node.begin()
    image, trace = node.template(), node.trace("trace", TOUCHED)
    name = await node.set_made(image, trace)
    _flip(node.sets_dir / name, 100)
    machine = await node.machine("vm", image)
    serving = await node.served("vm")
    assert serving.method == "demand"
    assert "damaged" in serving.why
    assert len(node.told("working_set.dropped")) == 1
    await node.assert_whole(machine)
    await until(lambda: node.kept(".spoilt") == [], "it stayed")
    assert await node.set_made(image, trace) == name
    late = await node.machine("late", image)
    assert (await node.served("late")).method in INSTALLED
    await node.assert_whole(late)


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


async def _is_next_recorded(node: KuasarNode, image: Path) -> bool:
    machine = await node.machine("next", image)
    recorded = await node.is_recorded("next")
    await node.assert_whole(machine)
    return recorded


# -- the socket -----------------------------------------------------------------------------------


async def test_second_monitor_of_a_sandbox_is_ended_and_the_first_is_not(node: KuasarNode) -> None:
    await node.begin()
    image = node.template()
    first = await node.machine("vm", image)
    await node.served("vm")
    second = await node.monitor(node.files.kuasar_dir / "vm" / "restore" / "memory.img")
    await _ends_when_it_hands_over(second)
    await node.assert_whole(first)


async def test_machine_that_cannot_be_served_is_ended_and_not_counted_as_recorded(
    node: KuasarNode,
) -> None:
    """Its image is shorter than its memory."""
    node.host.records = 1
    await node.begin()
    image = node.template()
    machine = await node.monitor(node.sandbox("vm", image))
    os.truncate(image, (PAGES - 1) * PAGE)
    await _ends_when_it_hands_over(machine)
    fits = f"{300 * PAGE},{211 * PAGE}"
    other = await node.monitor(node.sandbox("other", image), regions=fits)
    assert (await other.say("connect")).ok
    assert await node.is_recorded("other")
    assert (await other.say("verify")).wrong == 0


async def test_sandbox_whose_id_is_as_long_as_kuasars_are_is_served(node: KuasarNode) -> None:
    vm = "0123456789abcdef" * 4
    await node.begin()
    await node.assert_whole(await node.machine(vm, node.template()))


async def test_ended_sandboxes_name_may_come_again(node: KuasarNode) -> None:
    await node.begin()
    image = node.template()
    machine = await node.machine("vm", image)
    await node.served("vm")
    assert await machine.quit() == 0
    await until(lambda: node.told("vm.ended"), "its end is not seen")
    again = await node.monitor(node.files.kuasar_dir / "vm" / "restore" / "memory.img")
    assert (await again.say("connect")).ok
    await node.served("vm")
    await node.assert_whole(again)


async def _ends_when_it_hands_over(machine: StandIn) -> None:
    with contextlib.suppress(MachineLostError):
        await machine.say("connect")
    assert await machine.ended() == -signal.SIGKILL
