"""Provoke in a cluster what makes a restore fail; what can be undone is when a block ends."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from agentd.client.calls import list_templates, remove_template
from bench.cluster.leaks import processes_of
from bench.cluster.node import DemoNode
from bench.cluster.world import World
from bench.validate.node_faults import FAILING_MONITOR, changed, cut

_END_S = 10.0


@contextmanager
def store_down(world: World) -> Iterator[None]:
    """Nobody answers at the artifact store's address."""
    world.redis.kill()
    try:
        yield
    finally:
        world.redis.restart()


@contextmanager
def failing_monitor(node: DemoNode) -> Iterator[None]:
    """The node's monitor cannot load a machine; it can boot one."""
    settings = node.directory / "agentd.toml"
    before = settings.read_text()
    with tempfile.TemporaryDirectory(prefix="snapstart-monitor-") as directory:
        Path(directory).chmod(0o755)
        program = Path(directory) / "qemu-that-loads-nothing"
        program.write_text(FAILING_MONITOR)
        program.chmod(0o755)
        line = f'[monitor]\nqemu_binary = "{program}"\n'
        node.stop()
        try:
            settings.write_text(before.replace("[monitor]\n", line))
            node.start()
            yield
        finally:
            node.stop()
            settings.write_text(before)
            node.start()


@contextmanager
def truncated(node: DemoNode, key: str) -> Iterator[None]:
    """The node's artifact of a key ends early."""
    template, whole = node.directory / "data" / "templates" / key, node.directory / "whole"
    node.stop()
    try:
        with changed(template, whole, cut):
            node.start()
            try:
                yield
            finally:
                node.stop()
    finally:
        node.start()


def drop_artifacts(node: DemoNode) -> None:
    """The node has no artifact any more, and nobody was told."""
    for template in node.send(list_templates()).templates:
        node.send(remove_template(template.name))


def lose(node: DemoNode) -> None:
    """The node's agent and all its machines end at once, as when its power is cut."""
    node.kill()
    machines = processes_of(node.mark)
    for process in machines:
        process.kill()
    psutil.wait_procs(machines, timeout=_END_S)
