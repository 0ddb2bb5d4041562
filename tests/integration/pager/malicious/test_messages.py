"""What a monitor says of its memory is believed only as far as it can be true."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from .pager_process import PAGES, PagerProcess, make_memory, message
from .raw_monitor import PAGE, MonitorDiedError, RawMonitor
from .unharmed import attack, check_never_reads_zeros


def _whole(a: int) -> str:
    return message((a, PAGES * PAGE, 0))


LIES: dict[str, Callable[[int], str]] = {
    "a size beyond the image": lambda a: message((a, (PAGES + 1) * PAGE, 0)),
    "a size beyond all memory": lambda a: message((a, 2**64 - PAGE, 0)),
    "a size that wraps around": lambda a: message((a, 2**64 - 2**12 - a, 0), (PAGE, PAGE, PAGE)),
    "less than the image": lambda a: message((a, PAGE, 0)),
    "nothing": lambda a: message((a, 0, 0)),
    "a part of a page": lambda a: message((a, PAGES * PAGE - 1, 0)),
    "an address within a page": lambda a: message((a + 1, PAGES * PAGE, 0)),
    "an offset beyond the image": lambda a: message((a, PAGES * PAGE, PAGES * PAGE)),
    "an offset that wraps around": lambda a: message((a, PAGES * PAGE, 2**64 - PAGE)),
    "an offset within a page": lambda a: message((a, PAGES * PAGE, 8)),
    "regions that overlap in memory": lambda a: message(
        (a, 48 * PAGE, 0), (a + 47 * PAGE, 48 * PAGE, 48 * PAGE)
    ),
    "regions that overlap in the image": lambda a: message(
        (a, 48 * PAGE, 0), (a + 48 * PAGE, 48 * PAGE, 47 * PAGE)
    ),
    "the same region twice": lambda a: message((a, PAGES * PAGE, 0), (a, PAGES * PAGE, 0)),
    "no regions": lambda a: "[]",
    "too many regions": lambda a: message(*((a + i * PAGE, PAGE, i * PAGE) for i in range(1025))),
    "a page size of nothing": lambda a: message((a, PAGES * PAGE, 0), page_size=0),
    "a page size of four": lambda a: message((a, PAGES * PAGE, 0), page_size=4),
    "huge pages in a small image": lambda a: message((a, 2**21, 0), page_size=2**21),
    "negative numbers": lambda a: message((-PAGE, PAGES * PAGE, 0)),
    "numbers as text": lambda a: _whole(a).replace(str(a), f'"{a}"'),
    "a member twice": lambda a: _whole(a).replace("{", '{"size": 1,'),
    "an object": lambda a: _whole(a).strip("[]"),
    "two messages": lambda a: _whole(a) * 2,
    "no JSON": lambda a: "GET / HTTP/1.1\r\n\r\n",
    "brackets without end": lambda a: "[" * 100_000,
    "bytes of nothing": lambda a: "\0" * 100,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_memory_is_refused_and_its_teller_ended(
    pager: PagerProcess, monitor: RawMonitor, lie: str
) -> None:
    memory = make_memory(monitor)
    path = pager.listen("evil")
    sock = monitor.ask("connect", path=str(path))
    with contextlib.suppress(MonitorDiedError, BrokenPipeError, ConnectionResetError):
        monitor.ask("send", sock=sock, text=LIES[lie](memory.address), fds=[memory.uffd])
        monitor.ask("close", fd=memory.uffd)
    check_never_reads_zeros(monitor, memory)
    assert pager.wait("evil", 0.1)["error"] in ("hand_over", "stopped")


def test_memory_that_is_not_there_is_not_missed_by_others(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    monitor.ask("unmap", address=memory.address, pages=PAGES)
    attack(pager, monitor, memory.message, [memory.uffd])
    pager.wait("evil", 1.0)


def test_memory_that_is_withdrawn_ends_its_machine_alone(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    attack(pager, monitor, memory.message, [memory.uffd])
    assert pager.wait("evil")["ok"]
    for page in range(0, PAGES, 2):
        monitor.ask("touch_later", address=memory.address + page * PAGE)
    with contextlib.suppress(MonitorDiedError):
        monitor.ask("unregister", fd=memory.uffd, address=memory.address, pages=PAGES)


def test_memory_that_goes_away_ends_its_machine_alone(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    attack(pager, monitor, memory.message, [memory.uffd])
    assert pager.wait("evil")["ok"]
    for page in range(0, PAGES, 2):
        monitor.ask("touch_later", address=memory.address + page * PAGE)
    with contextlib.suppress(MonitorDiedError):
        monitor.ask("unmap", address=memory.address, pages=PAGES)
