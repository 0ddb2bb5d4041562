"""The proof of the comparison fails when it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.compare.proof import PLANTED, alarms, judge_planted, planted
from bench.compare.verdict import Judged, Verdict

TIMES = """
import time
from bench.suites.test_messages import LINES
from agentd.engine import journal

calls = []
def slow(*args):
    calls.append(time.perf_counter())
    time.sleep(0.1)
    return [], 0

journal._decode_lines = slow
begun_s = time.perf_counter()
journal.decode_lines(LINES, "journal")
assert len(calls) == 1
print(time.perf_counter() - begun_s)
"""


def a_verdict(name: str, verdict: Verdict) -> Judged:
    return Judged(name, verdict, 1.0, 1.0, 1.0, 1.0, 40, 0.05)


def test_the_planted_series_must_be_worse_and_no_other() -> None:
    found, calm = a_verdict(PLANTED, Verdict.WORSE), a_verdict("a.b", Verdict.SAME)
    assert judge_planted([found, calm]) == []
    assert judge_planted([a_verdict(PLANTED, Verdict.NOISY), calm])
    assert judge_planted([found, a_verdict("a.b", Verdict.WORSE)])
    assert judge_planted([calm])


def test_better_and_worse_are_alarms_on_equal_builds() -> None:
    told = [a_verdict(verdict.value, verdict) for verdict in Verdict]
    assert alarms(told) == ["better", "worse"]


def test_the_copy_has_the_slow_down_and_is_removed(tmp_path: Path) -> None:
    """The slower function waits for 15 % of what the original takes: here a tenth of a second."""
    with planted(tmp_path) as build:
        done = subprocess.run(
            [sys.executable, "-c", TIMES],
            cwd=build.tree, env=build.variables, capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert float(done.stdout) >= 0.115
    assert list(tmp_path.iterdir()) == []
