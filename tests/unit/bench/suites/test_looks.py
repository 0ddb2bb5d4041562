"""A series that needs nothing but a processor can be looked at several times in one run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]


def collect(*options: str) -> list[str]:
    """The tests of a run, in order, without their file."""
    suites = ROOT / "bench" / "suites"
    files = [suites / f"test_{name}.py" for name in ("messages", "journal", "fork")]
    argv = [sys.executable, "-m", "pytest", "-c", suites / "pytest.ini", "--collect-only", "-q"]
    done = subprocess.run(
        [*argv, *files, *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.timeout(60)
def test_all_series_are_looked_at_once_before_any_is_again() -> None:
    once = collect()
    assert len(once) > 1
    assert collect("--looks=3") == [f"{test}[look{n}]" for n in range(3) for test in once]


@pytest.mark.timeout(60)
def test_series_on_machines_are_measured_once() -> None:
    tests = collect("--looks=2", "--form=quick")
    on_machines = set(tests) - {f"{test}[look{n}]" for n in range(2) for test in collect()}
    assert on_machines
    assert not any("look" in test for test in on_machines)
