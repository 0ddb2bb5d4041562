"""What is left is found, what is others' is not."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cluster.leaks import Leaks, Marks, child_pids, find_leaks, processes_of

SLEEP = "import sys, time; sys.stdin.read()"


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    mark = f"guest=snapstart/{uuid.uuid4().hex}/"
    return Marks(tmp_path / "gone", "no-such-tag", (mark,), child_pids())


@pytest.fixture
def machine(marks: Marks) -> Iterator[subprocess.Popen[bytes]]:
    """A process that calls itself a machine of the run."""
    argv = [sys.executable, "-c", SLEEP, "-name", f"{marks.machines[0]}s-1"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        yield process


def test_of_nothing_nothing_is_left(marks: Marks) -> None:
    assert find_leaks(marks) == Leaks()
    assert find_leaks(marks).count == 0


def test_a_file_is_found(marks: Marks) -> None:
    marks.directory.mkdir()
    (marks.directory / "one").touch()
    assert find_leaks(marks).files == (str(marks.directory), str(marks.directory / "one"))


def test_a_machine_is_found(marks: Marks, machine: subprocess.Popen[bytes]) -> None:
    found = find_leaks(marks)
    assert any(one.startswith(f"{machine.pid} ") for one in found.processes)
    assert [one.pid for one in processes_of(marks.machines[0])] == [machine.pid]


def test_a_child_that_was_never_reaped_is_found(marks: Marks) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        child_left = find_leaks(marks).processes
        assert any(one.startswith(f"{child.pid} ") for one in child_left)
    finally:
        child.wait()
    assert find_leaks(marks).processes == ()
