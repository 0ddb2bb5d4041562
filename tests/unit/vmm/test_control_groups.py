"""A machine's control group is bounded where the host allows it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentd.units import MIB
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.limits import Limits, choose_limits, offer_controllers, write_limits
from agentd.wire.manifest import Machine

SHAPE = Machine(memory_mib=512, vcpus=2)
LIMITS = Limits(1024 * MIB, 130)


def test_a_machine_may_take_its_memory_and_what_its_monitor_needs() -> None:
    plain, emulated = choose_limits(SHAPE), choose_limits(SHAPE, is_emulated=True)
    assert plain == Limits(1024 * MIB, 130)
    assert emulated.memory_bytes - plain.memory_bytes == 1024 * MIB
    copied = choose_limits(SHAPE, is_copied=True)
    assert copied.memory_bytes - plain.memory_bytes == 512 * MIB


def as_group(path: Path, *names: str) -> Path:
    """A directory like a control group: files are the kernel's, none can be made."""
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).write_text("max\n")
    return path


def test_both_limits_are_written_whole(tmp_path: Path) -> None:
    group = as_group(tmp_path / "g", "memory.max", "pids.max")
    write_limits(group, LIMITS)
    assert (group / "memory.max").read_text().startswith(str(1024 * MIB))
    assert (group / "pids.max").read_text().startswith("130")


@pytest.mark.parametrize("name", ["memory.max", "pids.max"])
def test_a_controller_that_is_missing_leaves_the_other(tmp_path: Path, name: str) -> None:
    group = as_group(tmp_path / "g", name)
    write_limits(group, LIMITS)
    assert [path.name for path in group.iterdir()] == [name]
    assert not (group / name).read_text().startswith("max")


def test_a_host_without_controllers_makes_groups_without_limits(tmp_path: Path) -> None:
    offer_controllers(tmp_path / "gone")
    tree = CgroupTree(tmp_path, "i")
    fd = tree.create("s-1", LIMITS)
    assert fd >= 0
    os.close(fd)
    assert list((tmp_path / "snapstart-i-s-1").iterdir()) == []


def test_a_group_whose_limit_is_refused_is_not_used(tmp_path: Path) -> None:
    """Without its limit it would look like one that is bounded."""
    group = as_group(tmp_path / "snapstart-i-s-1")
    (group / "memory.max").mkdir()  # writing to it fails as a refusal of the kernel's does
    assert CgroupTree(tmp_path, "i").create("s-1", LIMITS) == -1
