"""One client that does too much holds up nobody else."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from .pager_process import PAGES, PagerProcess, make_memory, read, until
from .raw_monitor import EVENT_REMOVE, MISSING, PAGE, WRITE_PROTECTED, MonitorDiedError, RawMonitor
from .unharmed import attack, check_newcomer

HELD = 400  # of them stay open


def _connect_often(path: Path, held: contextlib.ExitStack) -> None:
    for i in range(3000):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            sock.connect(str(path))
        if i < HELD:
            held.enter_context(sock)
        else:
            sock.close()


def test_thousands_of_hand_over_connections_are_survived(pager: PagerProcess) -> None:
    path = pager.listen("evil")
    with contextlib.ExitStack() as held:
        _connect_often(path, held)
        check_newcomer(pager)


def test_thousands_of_control_connections_are_survived(pager: PagerProcess) -> None:
    with pager.control() as control, contextlib.ExitStack() as held:
        _connect_often(pager.control_path, held)
        assert control.ask("hello")["ok"]
    until(lambda: _is_let_in(pager), lambda: pager.log)
    check_newcomer(pager)


def _is_let_in(pager: PagerProcess) -> bool:
    """Not as long as it has not seen how many hung up."""
    try:
        return bool(pager.ask("hello")["ok"])
    except (EOFError, ConnectionError):
        return False


def test_a_flood_of_removals_is_followed(pager: PagerProcess, monitor: RawMonitor) -> None:
    memory = make_memory(monitor)
    attack(pager, monitor, memory.message, [memory.uffd])
    assert pager.wait("evil")["ok"]
    assert read(monitor, memory, 0, PAGES) == pager.image
    monitor.tell("flood", address=memory.address, pages=PAGES // 2, times=5000, threads=3)
    check_newcomer(pager)
    monitor.answer(120.0)
    removed = bytes(PAGES // 2 * PAGE)
    assert read(monitor, memory, 0, PAGES) == removed + pager.image[len(removed) :]


def test_a_userfaultfd_that_blocks_its_reader_holds_up_nobody_else(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    attack(pager, monitor, memory.message, [memory.uffd])
    assert pager.wait("evil")["ok"]
    monitor.ask("make_blocking", fd=memory.uffd)
    with contextlib.suppress(MonitorDiedError):
        for page in range(PAGES):
            monitor.ask("touch_later", address=memory.address + page * PAGE)
    check_newcomer(pager)


def test_a_page_that_faults_for_ever_holds_up_nobody_else(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor, features=EVENT_REMOVE | 1, mode=MISSING | WRITE_PROTECTED)
    attack(pager, monitor, memory.message, [memory.uffd])
    assert pager.wait("evil")["ok"]
    assert read(monitor, memory, 0, 1) == pager.image[:PAGE]
    monitor.ask("protect", fd=memory.uffd, address=memory.address, pages=1)
    monitor.ask("write_later", address=memory.address)
    check_newcomer(pager)
