"""A machine's control group."""

from __future__ import annotations

from pathlib import Path

from agentd.vmm.cgroup import CgroupTree


def test_a_machine_has_a_group_until_it_is_removed(tmp_path: Path) -> None:
    former = tmp_path / "former"
    (former / "snapstart-inst-old").mkdir(parents=True)
    root = tmp_path / "root"
    (root / "snapstart-inst-new").mkdir(parents=True)
    tree = CgroupTree(root, "inst", former)
    assert tree.has("new")
    assert tree.has("old")
    assert not tree.has("other")
    tree.remove("old")
    assert not tree.has("old")


def test_without_groups_no_machine_has_one() -> None:
    assert not CgroupTree(None).has("new")
