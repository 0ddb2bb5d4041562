"""Write down which tests of a run were left out, which failed, how long each took."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest


class Outcomes(msgspec.Struct):
    """By the name of the test. failed: with the last line of why."""

    left_out: list[str] = []
    failed: dict[str, str] = {}
    took_s: dict[str, float] = {}


class OutcomesPlugin:
    """Part of pytest while the suites run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = Outcomes()

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """What this run does not measure."""
        self._found.left_out += [item.nodeid for item in items]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A suite that cannot even be imported."""
        if report.failed:
            self._found.failed[report.nodeid] = reason_of(report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test."""
        took_s = self._found.took_s.get(report.nodeid, 0.0) + report.duration
        self._found.took_s[report.nodeid] = took_s
        if report.failed:
            self._found.failed[report.nodeid] = reason_of(report.longreprtext)

    def pytest_sessionfinish(self) -> None:
        """The end of the run, of an interrupted one too."""
        self._path.write_bytes(msgspec.json.encode(self._found))


def reason_of(text: str) -> str:
    """The error in what pytest says of a failure, in a line."""
    lines = text.strip().splitlines() or ["no reason was given"]
    errors = [line for line in lines if line.startswith("E ")]
    return (errors or lines[-1:])[0].removeprefix("E ").strip()
