"""The doctor on machines made of files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentd.cli import doctor_checks
from agentd.cli.doctor_checks import Check, Host, Level
from agentd.cli.snapctl import snapctl
from tests.fakes.local_api import FakeLocalApi, Refusal


def host(root: Path, **more: object) -> Host:
    whole = {"socket": str(root / "none"), "state_dir": root / "a/b", "environ": {"PATH": ""}}
    return Host(root=root, **{**whole, **more})  # type: ignore[arg-type]


def put(root: Path, path: str, content: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content)


def level_of(check: Check) -> Level:
    assert check.hint or check.level is Level.OK
    return check.level


def fake_qemu(root: Path, script: str) -> Host:
    path = root / "qemu-system-x86_64"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return host(root, environ={"PATH": str(root)})


@pytest.mark.parametrize(
    ("script", "level"),
    [
        ("echo QEMU emulator version 8.1.0", Level.OK),
        ("echo QEMU emulator version 7.1.9", Level.FAIL),
        ("exit 3", Level.FAIL),
    ],
    ids=["new", "old", "broken"],
)
def test_qemu_is_asked_for_its_version(tmp_path: Path, script: str, level: Level) -> None:
    assert level_of(doctor_checks.check_qemu(fake_qemu(tmp_path, script))) is level


def test_a_machine_without_anything_gets_advice_for_everything(tmp_path: Path) -> None:
    empty = host(tmp_path)
    for look in (
        doctor_checks.check_qemu, doctor_checks.check_kvm, doctor_checks.check_cgroup,
        doctor_checks.check_apt, doctor_checks.check_socket, doctor_checks.check_daemon,
    ):  # fmt: skip
        assert level_of(look(empty)) is not Level.OK


def test_kvm_needs_the_cpu_flag_then_the_device(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", "flags\t: fpu sse2\n")
    assert "TCG" in doctor_checks.check_kvm(host(tmp_path)).detail
    put(tmp_path, "proc/cpuinfo", "processor: 0\nflags\t: fpu svm sse2\n")
    assert "modprobe kvm_amd" in doctor_checks.check_kvm(host(tmp_path)).hint
    put(tmp_path, "dev/kvm", "a plain file")
    assert "does not answer" in doctor_checks.check_kvm(host(tmp_path)).detail


def test_control_groups_and_package_lists_are_found(tmp_path: Path) -> None:
    put(tmp_path, "proc/mounts", "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n")
    assert level_of(doctor_checks.check_cgroup(host(tmp_path))) is Level.OK
    put(tmp_path, "var/lib/apt/lists/deb_main_binary-amd64_Packages.lz4", "")
    assert level_of(doctor_checks.check_apt(host(tmp_path))) is Level.OK


def test_the_socket_must_be_one_and_not_open_to_everybody(
    daemon: FakeLocalApi, tmp_path: Path
) -> None:
    there = host(tmp_path, socket=str(daemon.socket_path))
    daemon.socket_path.chmod(0o666)
    assert "open to everybody" in doctor_checks.check_socket(there).detail
    daemon.socket_path.chmod(0o660)
    assert level_of(doctor_checks.check_socket(there)) is Level.OK
    put(tmp_path, "file", "")
    assert (
        "no socket" in doctor_checks.check_socket(host(tmp_path, socket=f"{tmp_path}/file")).detail
    )


def test_the_daemons_own_words_are_shown(daemon: FakeLocalApi, tmp_path: Path) -> None:
    there = host(tmp_path, socket=str(daemon.socket_path))
    assert "qemu 7.2.22 with tcg" in doctor_checks.check_daemon(there).detail
    daemon.refusals["GET", "/v1/status"] = Refusal("internal", 500)
    check = doctor_checks.check_daemon(there)
    assert check.level is Level.FAIL
    assert "internal" in check.detail


def test_the_exit_code_tells_failures_from_warnings(
    daemon: FakeLocalApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_qemu(tmp_path, "echo QEMU emulator version 8.1.0")
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    daemon.socket_path.chmod(0o660)
    args = ["doctor", "--state-dir", str(tmp_path), "--json", "--socket"]
    good = CliRunner().invoke(snapctl, [*args, str(daemon.socket_path)])
    assert good.exit_code == 0, good.output
    assert len(json.loads(good.stdout)["checks"]) == 11
    bad = CliRunner().invoke(snapctl, [*args, str(tmp_path / "none")])
    assert bad.exit_code == 11
    plain = CliRunner().invoke(snapctl, ["doctor", "--socket", str(tmp_path / "none")])
    assert "WHAT TO DO" in plain.stdout
