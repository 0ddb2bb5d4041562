"""What does a fork pay to have its machine survive the daemon?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from agentd.engine.journal import Journal
from agentd.engine.journal_records import Role, VmGone, VmIntended


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened, _ = Journal.open(tmp_path / "journal", "boot")
    yield opened
    opened.close()


def test_a_machine_is_written_down_and_crossed_out(
    benchmark: BenchmarkFixture, journal: Journal
) -> None:
    """Two records, each from the call to its return: written, not yet on a disk."""

    def append() -> None:
        journal.append(VmIntended("vm-1", Role.SESSION, "/run/snapstart/vms/vm-1"))
        journal.append(VmGone("vm-1"))

    benchmark(append)
    assert journal.state.vms == {}
