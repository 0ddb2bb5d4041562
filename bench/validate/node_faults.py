"""Provoke on one node what makes a restore fail; everything is undone when a block ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentd.store import files
from bench.node import Node

# Stands before the real QEMU: it alone decides nothing else.
FAILING_MONITOR = """#!/bin/sh
# A stand-in for a monitor that cannot load a saved machine; everything else is QEMU's.
case " $* " in *" -incoming "*) echo "cannot load the saved machine: as planned" >&2; exit 3 ;; esac
exec qemu-system-x86_64 "$@"
"""


def cut(template: Path) -> None:
    """Its memory ends early."""
    os.truncate(template / files.MEMORY, 4096)


def flip(template: Path) -> None:
    """One bit of its memory is another."""
    with (template / files.MEMORY).open("r+b") as memory:
        at = os.lseek(memory.fileno(), 1 << 20, os.SEEK_DATA)
        (byte,) = os.pread(memory.fileno(), 1, at)
        os.pwrite(memory.fileno(), bytes([byte ^ 1]), at)


@contextmanager
def damaged(node: Node, name: str, change: Callable[[Path], None]) -> Iterator[None]:
    """The node reads a template that was changed on disk; afterwards it is whole again."""
    template, whole = node.root / "data" / "templates" / name, node.root / "whole"
    node.stop()
    try:
        with changed(template, whole, change):
            node.start()
            try:
                yield
            finally:
                node.stop()
    finally:
        node.start()


@contextmanager
def changed(template: Path, whole: Path, change: Callable[[Path], None]) -> Iterator[None]:
    """A template is another on disk. whole: where it is kept meanwhile; agentd must not run."""
    subprocess.run(["cp", "-a", "--sparse=always", template, whole], check=True)
    try:
        change(template)
        yield
    finally:
        shutil.rmtree(template)
        whole.rename(template)


@contextmanager
def failing_monitor(node: Node) -> Iterator[None]:
    """The node's monitor cannot load a machine; it can boot one."""
    with tempfile.TemporaryDirectory(prefix="snapstart-monitor-") as directory:
        # Machines run as users of their own, who have to get at it.
        Path(directory).chmod(0o755)
        program = Path(directory) / "qemu-that-loads-nothing"
        program.write_text(FAILING_MONITOR)
        program.chmod(0o755)
        node.stop()
        try:
            node.start(MONITOR__QEMU_BINARY=str(program))
            yield
        finally:
            node.stop()
            node.start()
