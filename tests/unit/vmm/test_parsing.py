"""What the host's files say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentd.errors import ErrorCode, PeerError, TransientError, UsageError
from agentd.native import CheckpointTimes, ForkTimes
from agentd.vmm.cgroup import CgroupTree, parse_cgroup2_mount, parse_own_cgroup
from agentd.vmm.explain import explain, read_log_tail
from agentd.vmm.host import describe_cpu, parse_cpuinfo, read_host_facts
from agentd.vmm.machine import LOG_FILE
from agentd.vmm.qemu import _checkpoint_ms, _stages_ms

CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Some CPU @ 2.00GHz
stepping\t: 8
cpu MHz\t\t: 3512.774
flags\t\t: fpu tsc {flags}
bugs\t\t:

processor\t: 1
vendor_id\t: Other
"""


def proc_with(tmp_path: Path, flags: str) -> Path:
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(flags=flags))
    return tmp_path


# -- host -----------------------------------------------------------------------------------------


def test_the_first_processor_counts() -> None:
    fields = parse_cpuinfo(CPUINFO.format(flags="svm"))
    assert fields["vendor_id"] == "GenuineIntel"
    assert fields["flags"] == "fpu tsc svm"
    assert fields["bugs"] == ""


def test_a_cpu_is_another_when_its_flags_are_but_not_when_its_clock_is() -> None:
    fields = dict(parse_cpuinfo(CPUINFO.format(flags="")))
    name = describe_cpu(fields)
    assert name.startswith("Some CPU @ 2.00GHz ")
    assert describe_cpu({**fields, "cpu MHz": "800.000"}) == name
    assert describe_cpu({**fields, "flags": "fpu"}) != name
    assert describe_cpu({}).startswith("unknown ")


@pytest.mark.parametrize(
    ("flags", "khz", "virtual"),
    [
        ("constant_tsc svm", 2_000_001, True),
        ("constant_tsc vmx", 2_000_001, True),
        ("constant_tsc", 2_000_001, False),
        ("vmx", 0, True),
        ("", 0, False),
    ],
    ids=["amd", "intel", "no_virtualisation", "no_constant_clock", "neither"],
)
def test_the_clock_is_measured_where_it_is_constant(
    tmp_path: Path, flags: str, khz: int, virtual: bool
) -> None:
    facts = read_host_facts(proc_with(tmp_path, flags), tmp_path / "dev", lambda: 2_000_001)
    assert (facts.tsc_khz, facts.has_virtualization) == (khz, virtual)
    assert facts.kvm is None
    assert not facts.can_use_kvm


def test_a_file_that_is_not_kvm_is_no_kvm(tmp_path: Path) -> None:
    (tmp_path / "kvm").write_text("")
    facts = read_host_facts(proc_with(tmp_path, "svm"), tmp_path, lambda: 0)
    assert facts.kvm is None


# -- control groups -------------------------------------------------------------------------------


def test_the_first_cgroup2_mount_is_found() -> None:
    mounts = "tmpfs /sys/fs/cgroup tmpfs rw\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    assert parse_cgroup2_mount(mounts) == Path("/sys/fs/cgroup/unified")
    assert parse_cgroup2_mount("proc /proc proc rw\n\nbroken\n") is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("4:memory:/a\n0::/system.slice/agentd.service\n", "/system.slice/agentd.service"),
        ("0::/\n", "/"),
        ("4:memory:/a\n", None),
        ("0::/../other\n", None),
    ],
    ids=["service", "root", "version_1_only", "outside_of_our_namespace"],
)
def test_our_own_group(text: str, path: str | None) -> None:
    assert parse_own_cgroup(text) == path


def test_a_host_without_version_2_makes_no_groups(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "mounts").write_text("")
    (tmp_path / "self/cgroup").write_text("0::/\n")
    tree = CgroupTree.find("inst", tmp_path)
    assert tree.root is None
    assert tree.create("s-1") == -1
    assert tree.list_ids() == []
    tree.remove("s-1")


def hierarchy(tmp_path: Path, own: str) -> Path:
    """A proc(5) whose reader is in this group of a hierarchy that it may write to."""
    (tmp_path / "self").mkdir()
    (tmp_path / "mounts").write_text(f"cgroup2 {tmp_path}/sys cgroup2 rw 0 0\n")
    (tmp_path / "self/cgroup").write_text(f"0::/{own}\n")
    (tmp_path / "sys" / own).mkdir(parents=True)
    return tmp_path / "sys"


def test_machines_are_put_into_their_own_unit_beside_the_daemons(tmp_path: Path) -> None:
    sys = hierarchy(tmp_path, "snapstart.slice/agentd.service")
    unit = sys / "snapstart.slice/snapstart-machines.service"
    unit.mkdir()
    tree = CgroupTree.find("inst", tmp_path)
    assert tree.root == unit
    os.close(tree.create("s-1"))
    assert [path.name for path in unit.iterdir()] == ["snapstart-inst-s-1"]


def test_without_that_unit_they_are_below_the_daemons_group(tmp_path: Path) -> None:
    sys = hierarchy(tmp_path, "system.slice/agentd.service")
    assert CgroupTree.find("inst", tmp_path).root == sys / "system.slice/agentd.service"


def test_a_daemon_that_is_no_unit_does_not_use_a_unit_beside_it(tmp_path: Path) -> None:
    sys = hierarchy(tmp_path, "user.slice/session-1.scope")
    (sys / "user.slice/snapstart-machines.service").mkdir()
    assert CgroupTree.find("inst", tmp_path).root == sys / "user.slice/session-1.scope"


def test_groups_that_a_former_daemon_made_below_its_own_unit_are_found(tmp_path: Path) -> None:
    """Its machines outlive an upgrade to units of two."""
    sys = hierarchy(tmp_path, "snapstart.slice/agentd.service")
    (sys / "snapstart.slice/snapstart-machines.service").mkdir()
    old = sys / "snapstart.slice/agentd.service/snapstart-inst-s-0"
    old.mkdir()
    tree = CgroupTree.find("inst", tmp_path)
    assert tree.list_ids() == ["s-0"]
    tree.remove_empty()
    assert not old.exists()


def test_a_group_that_is_not_ours_to_write_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "mounts").write_text(f"cgroup2 {tmp_path}/missing cgroup2 rw 0 0\n")
    (tmp_path / "self/cgroup").write_text("0::/x\n")
    assert CgroupTree.find("inst", tmp_path).root is None


def test_a_group_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "snapstart-inst-s-1").write_text("a file where the group should be")
    assert CgroupTree(tmp_path, "inst").create("s-1") == -1


# -- explanations ---------------------------------------------------------------------------------


def test_a_failure_carries_what_qemu_said(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text("qemu: one\n\n  qemu: two\n")
    with (
        pytest.raises(PeerError) as caught,
        explain(tmp_path, "starting machine s-1"),
    ):
        raise PeerError(ErrorCode.VMM_FAILED, "it ended", hint="look")
    assert str(caught.value) == (
        "starting machine s-1: it ended; QEMU said: qemu: one; qemu: two; look"
    )
    assert caught.value.args == (caught.value.message,)


def test_a_failure_of_any_kind_keeps_its_kind(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught, explain(tmp_path, "trying"):
        raise UsageError(ErrorCode.NAME_INVALID, "no")
    assert (caught.value.code, caught.value.message) == (ErrorCode.NAME_INVALID, "trying: no")


def test_a_lack_of_memory_is_worth_another_try(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text("cannot set up guest memory 'mem': Cannot allocate memory\n")
    with pytest.raises(TransientError) as caught, explain(tmp_path, "starting"):
        raise PeerError(ErrorCode.VMM_FAILED, "exit status 1")
    assert caught.value.code is ErrorCode.NO_MEMORY
    assert caught.value.delay_s > 0
    assert isinstance(caught.value.__cause__, PeerError)


def test_of_a_long_log_the_end_is_told(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_bytes(b"\xff" * 10_000 + b"\nthe end\n")
    tail = read_log_tail(tmp_path)
    assert tail.endswith("; the end")
    assert len(tail) <= 2048 + 2
    assert read_log_tail(tmp_path / "missing") == ""


# -- times ----------------------------------------------------------------------------------------


def test_stages_are_milliseconds_since_the_call() -> None:
    ms = 1_000_000
    times = ForkTimes(100, *(100 + ms * n for n in (1, 2, 4, 3, 5, 6, 7)))
    assert _stages_ms(times) == {
        "spawn": 1.0,
        "load": 3.0,
        "resume": 3.0,
        "inject": 6.0,
        "guest_ready": 7.0,
    }
    assert _checkpoint_ms(CheckpointTimes(0, ms, 2 * ms, 3 * ms, 4 * ms)) == {
        "stop": 2.0,
        "save": 4.0,
    }
