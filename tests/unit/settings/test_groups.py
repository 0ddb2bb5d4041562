"""Groups of settings agree with what is outside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentd.settings import Monitor, Stop
from agentd.typed_settings.example import comments
from agentd.vmm import cloud_hypervisor_versions, firecracker_versions


def test_systemd_waits_longer_than_a_stop_may_take() -> None:
    """Else it kills the daemon in the middle of what the daemon still may do."""
    unit = (Path(__file__).parents[3] / "systemd/agentd.service").read_text()
    found = re.search(r"^TimeoutStopSec=(\d+)s$", unit, re.M)
    assert found is not None
    assert int(found[1]) > Stop().longest_s
    assert f"{Stop().longest_s:g} s" in unit, "the comment says how long that is"


@pytest.mark.parametrize(
    ("field", "oldest"),
    [
        ("firecracker_binary", str(firecracker_versions.OLDEST)),
        ("cloud_hypervisor_binary", str(cloud_hypervisor_versions.OLDEST)),
    ],
    ids=["firecracker", "cloud_hypervisor"],
)
def test_what_is_said_of_a_monitor_is_the_oldest_that_its_driver_takes(
    field: str, oldest: str
) -> None:
    said = re.search(r"([\d.]+) or newer", " ".join(comments(Monitor)[field]))
    assert said is not None
    assert re.fullmatch(rf"v?{re.escape(said[1])}(\.0)*", oldest), oldest
