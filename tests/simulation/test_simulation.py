"""The control plane survives a seeded world; the simulation finds what is planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .planted import PLANTED

_ROOT = Path(__file__).parents[2]
_SEEDS = int(os.environ.get("SIMULATION_SEEDS", "200"))


def _simulate(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """In a process of its own: only there the order of sets is fixed."""
    command = [sys.executable, "-m", "tests.simulation", "--json", *arguments]
    done = subprocess.run(
        command,
        cwd=_ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    assert lines, done.stderr[-4000:]
    return done.returncode, json.loads(lines[-1]), done.stderr


@pytest.mark.timeout(300)
def test_some_hundred_seeds_violate_nothing() -> None:
    status, report, told = _simulate("--seeds", str(_SEEDS))
    assert report["violations"] == 0, told[-8000:]
    assert status == 0
    assert report["seeds"] == _SEEDS
    assert report["faults"] > _SEEDS
    assert report["restored_sessions"] > _SEEDS / 10


@pytest.mark.timeout(900)
def test_every_planted_defect_is_found() -> None:
    _, report, told = _simulate("--seeds", "1", "--quick")
    missed = [number for number, seed in report["planted"].items() if seed is None]
    assert not missed, told[-4000:]
    assert report["planted_found"] == f"{len(PLANTED)} of {len(PLANTED)}"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", [3, 48])
def test_a_seed_replays_exactly(seed: int) -> None:
    first, second = (_simulate("--seed", str(seed))[1] for _ in range(2))
    assert first == second


def test_planted_defects_are_at_least_thirty_of_the_list() -> None:
    assert len(PLANTED) >= 30
    assert len({one.number for one in PLANTED}) == len(PLANTED)
    numbers = {int(one.number.rstrip("abc")) for one in PLANTED}
    assert len(numbers) >= 30
    assert min(numbers) >= 1
    assert max(numbers) <= 100
