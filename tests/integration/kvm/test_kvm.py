"""The KVM path for real: the daemon, our guest image, forks, in an emulated machine with KVM.

The outer machine is emulated, so it runs anywhere, slowly: what it shows is that the path works.
Its times say nothing about KVM on a processor that has it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.kvm.outer_image import PYTHON, build_outer_image
from tests.integration.kvm.outer_machine import run_outer_machine

BUILD = Path(__file__).parents[3] / "build/kvm"
DEADLINE_S = 600.0

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        sys.version_info[:2] != PYTHON,
        reason=f"the outer machine has Python {PYTHON}, extension modules are for another",
    ),
]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """What the outer machine tells: one run serves every test here."""
    BUILD.mkdir(parents=True, exist_ok=True)
    image = build_outer_image(BUILD)
    told = run_outer_machine(image, BUILD / "console.log", deadline_s=DEADLINE_S)
    assert "failure" not in told, f"{told}; the whole console is in {BUILD / 'console.log'}"
    return told


def answers(report: dict[str, Any], member: str) -> list[Any]:
    return [fork["answer"][member] for fork in report["forks"]]


def test_the_host_is_seen_to_have_kvm(report: dict[str, Any]) -> None:
    assert report["host"]["can_use_kvm"] is True


def test_the_doctor_runs_a_machine_and_finds_kvm_usable(report: dict[str, Any]) -> None:
    assert report["doctor"]["level"] == "ok", report["doctor"]
    assert "a machine of /dev/kvm ran" in report["doctor"]["detail"]


def test_demanding_kvm_that_machines_may_not_open_is_refused(report: dict[str, Any]) -> None:
    assert report["refusal"]["status"] > 0
    assert "/dev/kvm has mode 0600" in report["refusal"]["said"]


def test_the_daemon_says_that_it_uses_kvm(report: dict[str, Any]) -> None:
    status = report["status"]
    assert (status["engine"], status["accel"]) == ("qemu", "kvm")
    assert status["engine_version"] == report["vmm"]["version"]


def test_a_template_is_built_under_kvm(report: dict[str, Any]) -> None:
    template, vmm = report["template"], report["vmm"]
    assert template["state"] == "ready", template["error"]
    assert vmm["accel"] == "kvm"
    assert vmm["cpu"].startswith("host")
    stages = {"boot", "warm", "baseline", "verdict", "checkpoint", "seal"}
    assert stages <= template["stages_ms"].keys()


def test_forks_run_under_kvm_and_not_as_root(report: dict[str, Any]) -> None:
    assert len(report["forks"]) >= 2
    for fork in report["forks"]:
        assert "anon_inode:kvm-vcpu:0" in fork["kvm_fds"]
        assert fork["answer"]["clocksource"] == "kvm-clock"
        assert fork["uid"] > 0
        assert {"spawn", "load", "resume", "guest_ready", "inject"} <= fork["stages_ms"].keys()


def test_forks_compute_the_same_as_different_machines(report: dict[str, Any]) -> None:
    assert set(answers(report, "sum")) == {499500}
    for member in ("urandom", "numpy_random", "hostname"):
        values = answers(report, member)
        assert len(set(values)) == len(values), f"{member} is the same in two forks: {values}"


def test_forks_have_the_time_of_their_host(report: dict[str, Any]) -> None:
    """Their clocks stood still since the checkpoint, tens of seconds ago."""
    for fork in report["forks"]:
        began_s, ended_s = fork["answer"]["asked_between_s"]
        assert began_s - 1 <= fork["answer"]["time_s"] <= ended_s + 1


def test_a_fork_does_not_see_what_another_did(report: dict[str, Any]) -> None:
    assert not any(answers(report, "had_mark"))


def test_the_template_is_unchanged_by_its_forks(report: dict[str, Any]) -> None:
    assert report["is_memory_as_sealed"] is True


def test_a_session_survives_a_restart_of_the_daemon(report: dict[str, Any]) -> None:
    assert report["adopted"]["had_mark"] is True
    assert report["adopted"]["hostname"] == report["forks"][0]["answer"]["hostname"]


def test_nothing_is_left_when_the_sessions_ended(report: dict[str, Any]) -> None:
    assert report["left"] == {"processes": [], "directories": [], "cgroups": []}
