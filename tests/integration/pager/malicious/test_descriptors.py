"""Whatever a monitor sends along is looked at first, closed if nobody asked for it."""

from __future__ import annotations

import base64
import contextlib
import json

import pytest

from .pager_process import PAGES, Memory, PagerProcess, make_memory, message, read
from .raw_monitor import EVENT_FORK, EVENT_REMOVE, MINOR_SHMEM, PAGE, MonitorDiedError, RawMonitor
from .unharmed import attack


def test_without_a_descriptor_there_is_no_machine(
    hasty_pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    sock = attack(hasty_pager, monitor, memory.message, [])
    assert monitor.ask("is_hung_up", sock=sock)
    answer = hasty_pager.wait("evil")
    assert answer["error"] == "stopped"


@pytest.mark.parametrize(
    "kind", ["pipe", "socket", "event", "pidfd", "/dev/null", "/proc/self/exe", "/"]
)
def test_another_kind_of_descriptor_is_refused(
    pager: PagerProcess, monitor: RawMonitor, kind: str
) -> None:
    memory = make_memory(monitor)
    sock = attack(pager, monitor, memory.message, [monitor.ask("file", kind=kind)])
    assert monitor.ask("is_hung_up", sock=sock)
    assert pager.wait("evil", 0.1)["error"] == "hand_over"


def test_its_own_connection_is_no_userfaultfd(pager: PagerProcess, monitor: RawMonitor) -> None:
    memory = make_memory(monitor)
    sock = monitor.ask("connect", path=str(pager.listen("evil")))
    monitor.ask("send", sock=sock, text=memory.message, fds=[sock])
    assert monitor.ask("is_hung_up", sock=sock)


def test_a_refused_hand_over_can_be_made_good(pager: PagerProcess, monitor: RawMonitor) -> None:
    memory = make_memory(monitor)
    sock = attack(pager, monitor, memory.message, [monitor.ask("file", kind="pipe")])
    assert monitor.ask("is_hung_up", sock=sock)
    sock = monitor.ask("connect", path=str(pager.directory / "evil.sock"))
    monitor.ask("send", sock=sock, text=memory.message, fds=[memory.uffd])
    assert pager.wait("evil")["ok"]
    assert read(monitor, memory, 0, PAGES) == pager.image


def test_a_userfaultfd_that_is_not_ready_is_refused(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    raw = monitor.ask("uffd", with_api=False)
    with contextlib.suppress(MonitorDiedError):
        sock = attack(pager, monitor, memory.message, [raw])
        assert monitor.ask("is_hung_up", sock=sock)
    assert pager.wait("evil", 0.1)["error"] in ("hand_over", "stopped")


def test_somebody_elses_userfaultfd_harms_nobody_else(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    fd, _ = monitor.ask("borrow_uffd", pages=PAGES)
    memory = Memory(monitor.ask("map", pages=PAGES), fd, PAGES)
    attack(pager, monitor, memory.message, [fd])
    pager.wait("evil", 1.0)


def test_one_userfaultfd_for_two_machines_is_survived(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    attack(pager, monitor, memory.message, [memory.uffd])
    path = pager.listen("twin")
    with contextlib.suppress(MonitorDiedError):
        sock = monitor.ask("connect", path=str(path))
        monitor.ask("send", sock=sock, text=memory.message, fds=[memory.uffd])
        monitor.ask("touch_later", address=memory.address)
    pager.wait("twin", 1.0)


@pytest.mark.parametrize("count", [2, 8, 9, 100, 253])
def test_more_descriptors_than_asked_are_all_closed(
    pager: PagerProcess, monitor: RawMonitor, count: int
) -> None:
    memory = make_memory(monitor)
    extra = [monitor.ask("file", kind="event") for _ in range(count - 1)]
    with contextlib.suppress(MonitorDiedError):
        sock = attack(pager, monitor, memory.message, [memory.uffd, *extra])
        assert monitor.ask("is_hung_up", sock=sock)
    assert pager.wait("evil", 0.1)["error"] in ("hand_over", "stopped")


def test_descriptors_with_every_byte_are_all_closed(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    path = pager.listen("evil")
    event = monitor.ask("file", kind="event")
    sock = monitor.ask("connect", path=str(path))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in "[" + " " * 50:
            monitor.ask("send", sock=sock, text=byte, fds=[event] * 5)


def test_forks_of_a_monitor_leave_no_descriptor(pager: PagerProcess, monitor: RawMonitor) -> None:
    memory = make_memory(monitor, features=EVENT_REMOVE | EVENT_FORK)
    with contextlib.suppress(MonitorDiedError):
        attack(pager, monitor, memory.message, [memory.uffd])
        monitor.ask("fork", times=20)
        monitor.ask("read", address=memory.address, pages=1)
    pager.wait("evil", 1.0)


@pytest.mark.parametrize("kind", ["unsealed", "short", "none", "pipe"])
def test_a_memfd_that_cannot_be_trusted_is_refused(
    pager: PagerProcess, monitor: RawMonitor, kind: str
) -> None:
    content = base64.b64encode(pager.image).decode()
    pages = PAGES if kind != "short" else PAGES + 1
    memfd = monitor.ask("memfd", content=content, pages=PAGES, is_sealed=kind != "unsealed")
    address = monitor.ask("map_file", fd=memfd, pages=PAGES)
    uffd = monitor.ask("uffd", features=EVENT_REMOVE | MINOR_SHMEM)
    second = {"none": [], "pipe": [monitor.ask("file", kind="pipe")]}.get(kind, [memfd])
    regions = json.loads(message((address, pages * PAGE, 0)))
    text = json.dumps({"protocol": "snapstart-memfd", "version": 1, "regions": regions})
    with contextlib.suppress(MonitorDiedError):
        attack(pager, monitor, text, [uffd, *second], protocol="memfd", image="")
    assert not pager.wait("evil", 0.5)["ok"]
