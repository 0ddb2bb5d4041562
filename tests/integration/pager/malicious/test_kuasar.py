"""Kuasar's socket is everybody's: what is said there is tied to a sandbox."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from .pager_process import PAGES, Memory, PagerProcess, make_memory, read, until
from .raw_monitor import MonitorDiedError, RawMonitor
from .unharmed import check_never_reads_zeros, unharmed

KUASAR = ("--kuasar-socket", "@/kuasar.sock", "--kuasar-directory", "@/sandboxes")
PATHS = {
    "another place": "{0}/image",
    "a climb": "{0}/sandboxes/../image",
    "a climb in disguise": "{0}/sandboxes/a/restore/../../../image",
    "a name that begins alike": "{0}/sandboxes-too/a/restore/memory.img",
    "no sandbox": "{0}/sandboxes/restore/memory.img",
    "what is not there": "{0}/sandboxes/nobody/restore/memory.img",
    "a directory": "{0}/sandboxes/a/restore",
}


def _kuasar_message(path: str, memory: Memory) -> str:
    mappings = json.loads(memory.message)
    return json.dumps({"version": 1, "snapshot_path": path, "mappings": mappings})


def _make_sandbox(pager: PagerProcess) -> Path:
    restore = pager.directory / "sandboxes" / "a" / "restore"
    restore.mkdir(parents=True)
    (restore / "memory.img").symlink_to(pager.image_path)
    return restore / "memory.img"


@pytest.mark.parametrize("path", PATHS)
def test_kuasars_monitor_gets_no_image_but_a_sandboxs(
    program: Path, monitor: RawMonitor, path: str
) -> None:
    with unharmed(program, extra=KUASAR) as pager:
        _make_sandbox(pager)
        memory = make_memory(monitor)
        text = _kuasar_message(PATHS[path].format(pager.directory), memory)
        with contextlib.suppress(MonitorDiedError):
            sock = monitor.ask("connect", path=str(pager.directory / "kuasar.sock"))
            monitor.ask("send", sock=sock, text=text, fds=[memory.uffd])
            monitor.ask("close", fd=memory.uffd)
        check_never_reads_zeros(monitor, memory)
        assert [one["vm"] for one in pager.ask("stats")["machines"]] == ["bystander"]
        monitor.kill()


def test_kuasars_next_monitor_is_served_whatever_the_last_did(
    program: Path, monitor: RawMonitor
) -> None:
    with unharmed(program, extra=KUASAR, templates=1) as pager, RawMonitor() as honest:
        path, door = _make_sandbox(pager), str(pager.directory / "kuasar.sock")
        for text in ("{", "[]", '{"version":1}', "x" * 300_000):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock = monitor.ask("connect", path=door)
                monitor.ask("send", sock=sock, text=text, fds=[])
        memory = make_memory(honest)
        sock = honest.ask("connect", path=door)
        honest.ask("send", sock=sock, text=_kuasar_message(str(path), memory), fds=[memory.uffd])
        until(lambda: pager.wait("a", 5)["ok"], lambda: f"it is not served: {pager.log}")
        assert read(honest, memory, 0, PAGES) == pager.image
        monitor.kill()
