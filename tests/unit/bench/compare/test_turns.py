"""One run measures while the other sleeps, whoever ends first, or dies."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench.compare.turns import take_turns

ROOT = Path(__file__).parents[4]
# Has its link, a file to write to, how many turns it wants; dies in the middle of one if told to.
RUN = """
import os, sys
from bench.suites.turns import TurnsPlugin
link, path, turns, dies_at = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
plugin = TurnsPlugin(link)
with open(path, "a", buffering=1) as words:
    for turn in range(turns):
        plugin.pytest_runtest_logstart()
        words.write(f"{turns} begins\\n")
        if turn == dies_at:
            os._exit(1)
        words.write(f"{turns} ends\\n")
plugin.pytest_sessionfinish()
plugin.pytest_unconfigure()
"""


def run(tmp_path: Path, wanted: tuple[int, int], dies_at: tuple[int, int] = (-1, -1)) -> list[str]:
    """Two runs that want so many turns, and end well or die. Returns what was written."""
    path = tmp_path / "words"
    links, processes = [], []
    for turns, dies in zip(wanted, dies_at, strict=True):
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-c", RUN, str(theirs.fileno()), str(path), str(turns), str(dies)]
        processes.append(subprocess.Popen(argv, cwd=ROOT, pass_fds=(theirs.fileno(),)))
        theirs.close()
        links.append(ours)
    take_turns(links, random.Random(0))
    for link, process in zip(links, processes, strict=True):
        link.close()
        process.wait(30)
    assert [process.returncode for process in processes] == [int(dies >= 0) for dies in dies_at]
    return path.read_text().splitlines()


@pytest.mark.timeout(60)
def test_turns_never_overlap_and_alternate_until_one_has_enough(tmp_path: Path) -> None:
    words = run(tmp_path, (5, 8))
    assert words[1::2] == [word.replace("begins", "ends") for word in words[0::2]]
    turns = [word.split()[0] for word in words[0::2]]
    assert all(set(turns[n : n + 2]) == {"5", "8"} for n in range(0, 10, 2))
    assert turns[10:] == ["8"] * 3


@pytest.mark.timeout(60)
def test_one_that_dies_leaves_the_turns_to_the_other(tmp_path: Path) -> None:
    words = run(tmp_path, (5, 8), dies_at=(1, -1))
    assert words.count("5 begins") == 2
    assert words.count("8 ends") == 8


@pytest.mark.timeout(60)
def test_both_end_when_who_gives_turns_is_gone(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    argv = [sys.executable, "-c", RUN, str(theirs.fileno()), str(tmp_path / "words"), "3", "-1"]
    with subprocess.Popen(argv, cwd=ROOT, pass_fds=(theirs.fileno(),), stderr=-1) as process:
        theirs.close()
        _, words = process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"who compares is gone" in words
    assert (tmp_path / "words").read_text() == ""
