"""A monitor may be slow, silent, or dead: nobody else waits for it."""

from __future__ import annotations

import contextlib

import pytest

from .pager_process import PAGES, PagerProcess, make_memory, read, until
from .raw_monitor import PAGE, MonitorDiedError, RawMonitor
from .unharmed import attack, check_newcomer


@pytest.mark.parametrize("part", [1, 7, 64])
def test_a_message_in_pieces_is_understood(
    pager: PagerProcess, monitor: RawMonitor, part: int
) -> None:
    memory = make_memory(monitor)
    sock = monitor.ask("connect", path=str(pager.listen("evil")))
    monitor.ask("send", sock=sock, text=memory.message, fds=[memory.uffd], part=part)
    assert pager.wait("evil")["ok"]
    assert read(monitor, memory, 0, PAGES) == pager.image


def test_a_descriptor_after_the_message_is_accepted(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    sock = attack(pager, monitor, memory.message, [])
    monitor.ask("send", sock=sock, text=" ", fds=[memory.uffd])
    assert pager.wait("evil")["ok"]
    assert read(monitor, memory, 0, PAGES) == pager.image


def test_half_a_message_is_not_waited_for_for_ever(
    hasty_pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    sock = attack(hasty_pager, monitor, memory.message[:40], [memory.uffd])
    check_newcomer(hasty_pager)
    with contextlib.suppress(MonitorDiedError):
        assert monitor.ask("is_hung_up", sock=sock)
    answer = hasty_pager.wait("evil")
    assert answer["error"] == "stopped"
    assert "in time" in answer["message"]


def test_silence_is_not_waited_for_for_ever(hasty_pager: PagerProcess, monitor: RawMonitor) -> None:
    sock = monitor.ask("connect", path=str(hasty_pager.listen("evil")))
    check_newcomer(hasty_pager)
    assert monitor.ask("is_hung_up", sock=sock)
    assert hasty_pager.wait("evil")["error"] == "stopped"


def test_nobody_coming_is_not_waited_for_for_ever(hasty_pager: PagerProcess) -> None:
    hasty_pager.listen("evil")
    answer = hasty_pager.wait("evil")
    assert answer["error"] == "stopped"
    assert not (hasty_pager.directory / "evil.sock").exists()


@pytest.mark.parametrize("length", [0, 1, 40])
def test_hanging_up_in_the_middle_is_survived(
    pager: PagerProcess, monitor: RawMonitor, length: int
) -> None:
    memory = make_memory(monitor)
    sock = monitor.ask("connect", path=str(pager.listen("evil")))
    if length:
        monitor.ask("send", sock=sock, text=memory.message[:length], fds=[memory.uffd])
    with contextlib.suppress(MonitorDiedError):
        monitor.ask("close", fd=sock)
    assert not pager.wait("evil", 0.2)["ok"]


def test_dying_in_the_middle_of_the_message_is_survived(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    attack(pager, monitor, memory.message[:-1], [memory.uffd])
    monitor.kill()
    assert not pager.wait("evil", 0.2)["ok"]


def test_dying_right_after_the_message_is_survived(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    path = pager.listen("evil")
    sock = monitor.ask("connect", path=str(path))
    monitor.tell("send", sock=sock, text=memory.message, fds=[memory.uffd])
    monitor.kill()
    pager.wait("evil", 0.5)


def test_dying_in_the_middle_of_faults_is_survived(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    attack(pager, monitor, memory.message, [memory.uffd])
    assert pager.wait("evil")["ok"]
    for page in range(PAGES):
        monitor.tell("write_later", address=memory.address + page * PAGE)
    monitor.kill()
    until(lambda: pager.wait("evil", 0).get("error") == "stopped", lambda: pager.log)
