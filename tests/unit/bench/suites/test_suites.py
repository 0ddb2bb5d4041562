"""Suites that need no machine run, one round each, and everything they take arrives."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.suites.budget import Form
from bench.suites.process import run_suites
from bench.suites.samples import samples_of


@pytest.mark.timeout(120)
def test_a_run_of_suites_gives_samples_of_every_test(tmp_path: Path) -> None:
    found = run_suites(Form.SMOKE, ["readiness", "messages"], tmp_path)
    assert found.outcomes.failed == {}
    samples = [one for test in found.benchmarks for one in samples_of(test, 0.0)]
    assert {one.series for one in samples} == {
        "readiness", "inject", "readiness.wait", "messages.frames_are_cut",
        "messages.a_request_for_a_session_is_read", "messages.the_journal_is_read",
    }  # fmt: skip
    assert {one.machine_kind for one in samples} == {"stand-in", "none"}
    assert all(one.value is not None for one in samples)
    assert (tmp_path / "pytest.log").stat().st_size
