"""Who may speak is decided by the kernel's word on who connected."""

from __future__ import annotations

import contextlib
import os

import pytest

from .pager_process import PAGES, PagerProcess, make_memory, read
from .raw_monitor import NOBODY, RawMonitor


def test_another_user_is_not_let_in(pager: PagerProcess, monitor: RawMonitor) -> None:
    path = pager.listen("evil")
    monitor.ask("become_nobody")
    os.chmod(pager.directory, 0o711)
    with pytest.raises(OSError, match="Permission denied"):
        monitor.ask("connect", path=str(path))
    with pytest.raises(OSError, match="Permission denied"):
        monitor.ask("connect", path=str(pager.control_path))


def test_another_user_is_hung_up_on_even_if_the_socket_lets_him_in(
    pager: PagerProcess, monitor: RawMonitor
) -> None:
    memory = make_memory(monitor)
    path = pager.listen("evil")
    os.chmod(pager.directory, 0o711)
    os.chmod(path, 0o666)
    monitor.ask("become_nobody")
    sock = monitor.ask("connect", path=str(path))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        monitor.ask("send", sock=sock, text=memory.message, fds=[memory.uffd])
    assert monitor.ask("is_hung_up", sock=sock)
    assert pager.wait("evil", 0)["error"] == "hand_over"


def test_another_user_commands_nothing(pager: PagerProcess, monitor: RawMonitor) -> None:
    os.chmod(pager.directory, 0o711)
    os.chmod(pager.control_path, 0o666)
    monitor.ask("become_nobody")
    sock = monitor.ask("connect", path=str(pager.control_path))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        monitor.ask("send", sock=sock, text='{"op":"retire"}\n', fds=[])
    assert monitor.ask("is_hung_up", sock=sock)


def test_the_user_it_was_ordered_for_is_let_in(pager: PagerProcess, monitor: RawMonitor) -> None:
    memory = make_memory(monitor)
    path = pager.listen("evil", uid=NOBODY)
    os.chmod(pager.directory, 0o711)
    monitor.ask("become_nobody")
    sock = monitor.ask("connect", path=str(path))
    monitor.ask("send", sock=sock, text=memory.message, fds=[memory.uffd])
    assert pager.wait("evil")["ok"]
    assert read(monitor, memory, 0, PAGES) == pager.image
