"""Groups of settings agree with what is outside them."""

from __future__ import annotations

import re
from pathlib import Path

from agentd.settings import Stop


def test_systemd_waits_longer_than_a_stop_may_take() -> None:
    """Else it kills the daemon in the middle of what the daemon still may do."""
    unit = (Path(__file__).parents[3] / "systemd/agentd.service").read_text()
    found = re.search(r"^TimeoutStopSec=(\d+)s$", unit, re.M)
    assert found is not None
    assert int(found[1]) > Stop().longest_s
    assert f"{Stop().longest_s:g} s" in unit, "the comment says how long that is"
