"""Replace agentd under sessions that run code; then look for what is left."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentd.client import Sandbox
from agentd.engine.home import read_boot_id
from agentd.engine.journal import decode_lines
from agentd.engine.journal_records import replay
from agentd.errors import SnapStartError
from agentd.image import Image
from bench.demo import IMAGES, MEMORY_MIB
from bench.node import Node
from tests.integration.node.survey import SETTLE_S, settle
from tests.torture.census import list_fds

from .builds import Build
from .sessions import Load

TEMPLATE: Final = "python"
# On a machine that others use, too, guests take their time.
_SETTINGS: Final = {
    "MACHINES__MEMORY_MIB": str(MEMORY_MIB),
    "DEADLINES__ADOPT_S": "120",
    "STOP__REQUESTS_S": "120",
    "DEADLINES__FORK_S": "180",
}


@dataclass
class NodeTally:
    """What came of it."""

    sessions: int = 0
    replaced: int = 0
    calls: int = 0
    failures: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)


def run_node(
    image: Image, builds: tuple[Build, Build], *, sessions: int, replacements: int
) -> NodeTally:
    """builds: the first begins and ends, if replacements are even."""
    tally = NodeTally(sessions)
    with Node(IMAGES, **_SETTINGS) as node:
        node.build_template(TEMPLATE, str(image.directory))
        _replace(node, builds[0])
        before = _idle_fds(node)
        opened = [node.create(TEMPLATE) for _ in range(sessions)]
        with Load(opened) as load:
            load.wait_for_calls(1)
            for number in range(1, replacements + 1):
                _replace(node, builds[number % 2])
                tally.replaced = number
                load.wait_for_calls(1)
                if load.failures:
                    break
        tally.calls, tally.failures = load.calls, load.failures
        tally.lost = _end(opened)
        tally.leaks = _find_leaks(node, before)
    return tally


def _replace(node: Node, build: Build) -> None:
    """As an upgrade does: the old one is told to stop, the new one started."""
    node.stop()
    node.checkout = build.root
    node.start()
    loaded = Path(f"/proc/{node.pid}/maps").read_text()
    assert f"{build.root}/agentd/_core" in loaded, f"it is not {build.name} that runs"


def _end(opened: list[Sandbox]) -> list[str]:
    """End them all. Returns: those that were gone already."""
    lost = []
    for sandbox in opened:
        try:
            sandbox.get_info()
            sandbox.kill()
        except SnapStartError as exc:
            lost.append(f"{sandbox.sandbox_id}: {exc}")
        sandbox.close()
    return lost


def _idle_fds(node: Node) -> Counter[str]:
    """What agentd has open without a session, once its template is loaded."""
    with contextlib.closing(node.create(TEMPLATE)) as sandbox:
        sandbox.kill()
    settle(node)
    return list_fds(node.pid)


def _more_fds(node: Node, before: Counter[str]) -> Counter[str]:
    """What it has open beyond before, once it has seen that our own connections are closed."""
    give_up = time.monotonic() + SETTLE_S
    while (more := _idle_fds(node) - before) and time.monotonic() < give_up:
        time.sleep(1.0)
    return more


def _find_leaks(node: Node, before: Counter[str]) -> list[str]:
    """Machines, directories, groups, descriptors, records."""
    more = _more_fds(node, before)
    found = settle(node)
    data, run = node.root / "data", node.root / "run"
    records, _ = decode_lines((run / "journal").read_bytes(), "the journal")
    state = replay(records)
    assert state.boot_id == read_boot_id()
    left = {
        "process": found.processes,
        "directory": found.directories,
        "group": found.groups,
        "descriptor": frozenset(more.elements()),
        "journal": frozenset(state.vms) | frozenset(state.templates),
        "file": frozenset(
            str(path) for name in ("staging", "trash") for path in (data / name).iterdir()
        ),
    }
    return [f"{kind}: {name}" for kind, names in left.items() for name in sorted(names)]
