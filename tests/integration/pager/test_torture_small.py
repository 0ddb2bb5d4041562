"""A small torture run: `make torture` is the long one."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.torture.plan import STEPS
from tests.torture.programs import Programs
from tests.torture.run import RunOrder, run_torture
from tests.torture.tally import FAULTS, has_failed

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="userfaultfds of a guest's memory need root"),
]


async def test_seventy_deaths_lose_no_machine_and_no_byte(programs: Programs) -> None:
    tally = await run_torture(programs, RunOrder(seed=11, deaths=70, machines=8))
    report = tally.report()
    assert {name: report[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0), (
        tally.lost,
        tally.leaks,
        tally.broken,
        tally.logs,
    )
    assert report["deaths"] == 70
    assert all(report["deaths_by_step"][step] for step in STEPS)
    assert report["pages_verified"] > 0
    assert not has_failed(report)


async def test_planted_journalling_mistake_is_found(programs: Programs) -> None:
    order = RunOrder(seed=11, deaths=24, machines=4, plant="forget-remove")
    tally = await run_torture(programs, order)
    # A run that failed leaves its logs.
    shutil.rmtree(tally.logs)
    assert tally.wrong_bytes > 0
    assert has_failed(tally.report())
