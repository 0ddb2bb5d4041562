"""The effects of a session on real files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.adapters.guest.conftest import ROOT

# A process of its own, because the effects keep their files open as long as the runtime lives.
PROGRAM = """
import sys
from agentd.guest.effects import SystemEffects
from agentd.guest.prepare import Plan
from agentd.guest.session import Session
from agentd.guest.settings import Settings

settings = Settings(is_vm=True)
machine_id, boot_id = sys.argv[1:]
effects = SystemEffects(
    settings,
    Session(settings, False, "/"),
    lambda *_: None,
    machine_id_file=machine_id,
    boot_id_file=boot_id,
)
for digit in "ab":
    effects.set_machine_id(Plan(machine_id=digit * 32))
    effects.renew_boot_id(Plan())
"""


# The kernel sets the clock only after a delay, given in ms; says how often it was asked.
SLOW_CLOCK = """
import sys, time
from agentd.guest.effects import SystemEffects
from agentd.guest.prepare import Plan
from agentd.guest.session import Session
from agentd.guest.settings import Settings

class Clock:
    monotonic_ns, wall_ns, asked = 7_000_000, 0, 0

def settime(_clock, wall_ns):
    Clock.asked += 1
    delay_ns = int(delays.pop(0)) * 1_000_000
    Clock.wall_ns = wall_ns - Clock.monotonic_ns - delay_ns
    Clock.monotonic_ns += delay_ns

delays = sys.argv[2:]
time.monotonic_ns = lambda: Clock.monotonic_ns
time.time_ns = lambda: Clock.wall_ns + Clock.monotonic_ns
time.clock_settime_ns = settime
settings = Settings(is_vm=True)
effects = SystemEffects(
    settings, Session(settings, False, "/"), lambda *_: None, machine_id_file=sys.argv[1]
)
effects.set_clock(Plan(wall_clock_ns=5_000_000_000, wall_clock_at_ns=2_000_000))
late_ns = 5_000_000_000 + Clock.monotonic_ns - 2_000_000 - time.time_ns()
effects.set_clock(Plan())
print(Clock.asked, late_ns)
"""


@pytest.mark.parametrize(
    ("delays", "expected"),
    [
        pytest.param(["0"], "1 0", id="prompt"),
        pytest.param(["40", "0"], "2 0", id="slow-once"),
        pytest.param(["40", "30", "20"], "3 20000000", id="always-slow"),
    ],
)
def test_a_clock_that_was_set_slowly_is_set_again(
    tmp_path: Path, delays: list[str], expected: str
) -> None:
    argv = [sys.executable, "-c", SLOW_CLOCK, str(tmp_path / "machine-id"), *delays]
    done = subprocess.run(argv, check=True, cwd=ROOT, timeout=30, capture_output=True, text=True)
    assert done.stdout.split() == expected.split()


@pytest.mark.parametrize("before", ["", "uninitialized\n", "0" * 32 + "\n", "long\n" * 100])
def test_identity_files_are_replaced_whole_whatever_they_held(tmp_path: Path, before: str) -> None:
    machine_id, boot_id = tmp_path / "machine-id", tmp_path / "boot_id"
    machine_id.write_text(before)
    boot_id.write_text(before)
    argv = [sys.executable, "-c", PROGRAM, str(machine_id), str(boot_id)]
    subprocess.run(argv, check=True, cwd=ROOT, timeout=30)
    assert machine_id.read_text() == "b" * 32 + "\n"
    assert [len(part) for part in boot_id.read_text().split("-")] == [8, 4, 4, 4, 13]
