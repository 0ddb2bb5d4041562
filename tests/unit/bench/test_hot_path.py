"""What is measured of agentd itself."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time

import pytest

from bench.hot_path import pieces
from bench.hot_path.overload import Outcome, choose_knee
from bench.hot_path.processor import Cost, processor_ns


def outcome(forks: int, ms: float = 100.0) -> Outcome:
    return Outcome([ms] * forks, seconds=10.0)


def test_the_knee_is_the_fewest_clients_that_come_near_the_most() -> None:
    looks = [(1, outcome(50)), (2, outcome(95)), (4, outcome(100)), (8, outcome(98))]
    assert choose_knee(looks)[0] == 2


def test_a_request_that_was_let_in_and_failed_took_for_ever() -> None:
    found = Outcome([100.0] * 9, late_ms=[200.0], seconds=2.0)
    assert found.p95_ms == math.inf
    assert found.rate == 4.5


def test_nothing_accepted_is_no_success() -> None:
    assert Outcome(refused_ms=[1.0], seconds=1.0).p95_ms == math.inf


def test_processor_time_is_of_that_process_alone() -> None:
    before = processor_ns(os.getpid())
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    child_excluded = processor_ns(os.getpid()) - before
    assert child_excluded < 100_000_000
    used = time.process_time_ns()
    while time.process_time_ns() < used + 20_000_000:
        pass
    assert processor_ns(os.getpid()) - before >= 20_000_000


def test_a_process_that_is_gone_has_no_clock() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    with pytest.raises(OSError, match="Invalid argument"):
        processor_ns(done.pid)


def test_a_forks_cost_is_its_start_and_its_end() -> None:
    assert Cost(3.0, 1.5).whole_ms == 4.5


def test_pieces_are_measured_without_a_machine_and_judged_by_nobody() -> None:
    found = pieces.measure()
    assert len({one.name for one in found}) == len(found) >= 8
    assert all(one.promised == "reported" and one.samples["us"] > 0 for one in found)
