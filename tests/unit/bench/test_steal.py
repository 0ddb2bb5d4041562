"""What the host took away is read from the kernel's words."""

from __future__ import annotations

from bench.steal import read_steal_ms


def test_this_machine_tells_and_never_takes_it_back() -> None:
    before = read_steal_ms()
    assert 0 <= before <= read_steal_ms()
