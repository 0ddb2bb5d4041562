"""Finding out who a Firecracker is, whether this host can run it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.errors import ConfigError, ErrorCode
from agentd.vmm.firecracker_open import open_firecracker
from agentd.vmm.firecracker_versions import HINT, Program, Version, probe_program
from agentd.vmm.host import DeviceAccess, HostFacts
from agentd.vmm.require import find_program, require_kvm

HOST = HostFacts("some CPU", 0, has_virtualization=True, kvm=DeviceAccess(0o666, 0))


def program(directory: Path, version: str, state_format: str = "v99.0.0") -> str:
    """One that answers as Firecracker does: with a log line after the answer."""
    path = directory / "firecracker"
    path.write_text(
        "#!/bin/sh\n"
        f'case $1 in --version) echo "{version}"; echo;;'
        f' --snapshot-version) echo "{state_format}";; *) exit 153;; esac\n'
        'echo "2026-01-01T00:00:00 [anonymous-instance:main] Firecracker exiting successfully."\n'
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("Firecracker v1.16.1", Program(Version(1, 16, 1), Version(10, 0, 0))),
        ("Firecracker v1.14.4", Program(Version(1, 14, 4), Version(8, 0, 0))),
        ("Firecracker v1.17.0-dev", Program(Version(1, 17, 0), Version(99, 0, 0))),
    ],
)
def test_a_format_that_is_not_known_is_asked_for(tmp_path: Path, said: str, known: Program) -> None:
    assert probe_program(program(tmp_path, said)) == known


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ("Firecracker v1.7.0", ErrorCode.CONFIG_INVALID, r"Firecracker 1\.7\.0, machines need"),
        (
            "QEMU emulator version 7",
            ErrorCode.MONITOR_MISSING,
            "answered 'QEMU emulator version 7'",
        ),
        ("", ErrorCode.MONITOR_MISSING, "answered ''"),
    ],
    ids=["too_old", "another_program", "mute"],
)
def test_a_program_that_cannot_be_used_is_refused(
    tmp_path: Path, said: str, code: ErrorCode, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        probe_program(program(tmp_path, said))
    assert caught.value.code is code
    assert caught.value.hint


def test_a_program_that_is_missing_or_fails_is_refused(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none"), "/bin/false"):
        with pytest.raises(ConfigError, match=path) as caught:
            probe_program(path)
        assert caught.value.code is ErrorCode.MONITOR_MISSING
    with pytest.raises(ConfigError, match="'no-such-firecracker' in PATH"):
        find_program("no-such-firecracker", HINT)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (replace(HOST, has_virtualization=False), "svm or vmx"),
        (replace(HOST, kvm=None), "does not open"),
        (replace(HOST, kvm=DeviceAccess(0o600, 0)), "mode 0600"),
    ],
)
def test_a_host_without_kvm_for_machines_is_refused_by_name(host: HostFacts, words: str) -> None:
    with pytest.raises(ConfigError, match=f"opening Firecracker.*{words}") as caught:
        require_kvm("Firecracker", host, is_unprivileged=True)
    assert "QEMU" in caught.value.hint


def test_a_host_with_kvm_for_machines_is_fine() -> None:
    require_kvm("Firecracker", HOST, is_unprivileged=True)


@pytest.mark.skipif(
    not {"svm", "vmx"} & set(Path("/proc/cpuinfo").read_text().split()) or os.geteuid() != 0,
    reason="machines cannot use KVM on this host",
)
def test_a_firecracker_of_this_host_is_opened(tmp_path: Path) -> None:
    driver = open_firecracker(
        binary=program(tmp_path, "Firecracker v1.16.1"), uid_base=0, installation="test",
        vms_dir=tmp_path, euid=0,
    )  # fmt: skip
    driver.check()
    driver.close()
