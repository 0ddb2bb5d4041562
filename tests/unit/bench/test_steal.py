"""What the host took away is read from the kernel's words."""

from __future__ import annotations

import os

from bench.steal import read_steal_ms, steal_share


def test_this_machine_tells_and_never_takes_it_back() -> None:
    before = read_steal_ms()
    assert 0 <= before <= read_steal_ms()


def test_a_share_is_of_all_processors_and_no_more_than_all() -> None:
    cores = os.cpu_count() or 1
    assert steal_share(2.0, 500.0 * cores) == 0.25
    assert steal_share(1.0, 1100.0 * cores) == 1.0
    assert steal_share(1.0, -10.0) == 0.0
