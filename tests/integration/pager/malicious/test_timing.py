"""A monitor may be slow, silent, or dead: nobody else waits for it."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from .pager_process import PAGES, PagerProcess, make_memory, read, until
from .raw_monitor import PAGE, MonitorDiedError, RawMonitor
from .unharmed import attack, check_newcomer, unharmed, wait_until_read


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


def test_bytes_one_by_one_cost_no_more_when_many_came_before(
    program: Path, monitor: RawMonitor
) -> None:
    with unharmed(program) as pager:
        costs = [_cost_of_bytes(pager, vm, before) for vm, before in (("a", 100), ("b", 120_000))]
    assert costs[1] < 8 * costs[0], f"{costs} ns"


def _cost_of_bytes(pager: PagerProcess, vm: str, before: int) -> int:
    """CPU time for 300 bytes that come one by one behind `before` others."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(pager.listen(vm)))
        sock.sendall(b'["' + b"]" * before)
        wait_until_read(sock)
        begun_ns = pager.cpu_ns()
        for _ in range(300):
            sock.sendall(b"]")
            wait_until_read(sock)
        cost_ns = pager.cpu_ns() - begun_ns
    assert pager.ask("forget", vm=vm) == {"ok": True}
    return cost_ns
