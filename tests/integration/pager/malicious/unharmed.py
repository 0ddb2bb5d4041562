"""A page server that must be as it was, whatever was done to it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from .pager_process import PAGES, HonestMachine, Memory, PagerProcess, until
from .raw_monitor import MonitorDiedError, RawMonitor

_SIOCOUTQ: Final = 0x5411


@contextlib.contextmanager
def unharmed(program: Path, *, templates: int = 0, **options: Any) -> Iterator[PagerProcess]:
    """A page server that serves an honest machine before and after what is done to it here.

    At the end it holds no descriptor more than before, said nothing but events, and the sanitizers
    have nothing to tell. templates: how many more are used here; the image of each is kept open for
    a while by design.
    """
    with PagerProcess(program, **options) as pager:
        bystander = HonestMachine(pager, "bystander")
        try:
            bystander.start()
            bystander.check(0, 8)
            before = sorted([*pager.open_fds(), *[str(pager.image_path)] * templates])
            yield pager
            assert pager.ask("forget", vm="evil") == {"ok": True}
            bystander.check(8, PAGES - 8)
            check_newcomer(pager)
            until(lambda: pager.open_fds() == before, lambda: f"{before} became {pager.open_fds()}")
        finally:
            bystander.monitor.kill()
        for line in pager.log.splitlines():
            assert "event" in json.loads(line)
        pager.stop()


def check_newcomer(pager: PagerProcess) -> None:
    """Another honest machine is served right, from its order to its end."""
    newcomer = HonestMachine(pager, "newcomer")
    try:
        newcomer.start()
        newcomer.check(0, PAGES)
    finally:
        newcomer.end()


def attack(
    pager: PagerProcess, monitor: RawMonitor, text: str, fds: list[int], **order: Any
) -> int:
    """Hand over something under the name "evil". Returns: the connection."""
    path = pager.listen("evil", **order)
    sock = monitor.ask("connect", path=str(path))
    monitor.ask("send", sock=sock, text=text, fds=fds)
    assert isinstance(sock, int)
    return sock


def check_never_reads_zeros(monitor: RawMonitor, memory: Memory) -> None:
    """Its memory is not served, so it must not go on: it is ended, or waits."""
    with contextlib.suppress(TimeoutError, MonitorDiedError):
        monitor.tell("read", address=memory.address, pages=1)
        monitor.answer(0.5)
        pytest.fail("it reads what nobody brought")


def wait_until_read(sock: socket.socket) -> None:
    """Until the other side has read all that was sent."""
    waiting = bytearray(4)

    def is_read() -> bool:
        fcntl.ioctl(sock, _SIOCOUTQ, waiting)
        return not any(waiting)

    until(is_read, lambda: "it is not read")
