"""The doctor on machines made of files."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agentd.cli import doctor_checks
from agentd.cli.doctor_certificates import gather_certificates, judge_certificates
from agentd.cli.doctor_checks import Check, Host, Level
from agentd.cli.doctor_directories import gather_directory
from agentd.cli.doctor_host import gather_clock, gather_room, judge_clocksource
from agentd.cli.doctor_kernel import gather_kernel, judge_cgroup
from agentd.cli.doctor_kvm import gather_kvm, judge_kvm, run_with_limit
from agentd.cli.doctor_monitors import gather_monitor
from agentd.cli.doctor_reach import ask_api_server, ask_store, gather_socket
from agentd.cli.snapctl import snapctl
from agentd.settings import Node, Proxy, Settings
from tests.fakes.local_api import FakeLocalApi, Refusal
from tests.kube.redisd import RedisServer

QEMU = "qemu-system-x86_64"


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
    return host(root, environ={"PATH": f"{root}:/usr/bin:/bin"})


def test_a_monitor_is_asked_for_its_version(tmp_path: Path) -> None:
    found = gather_monitor(fake_qemu(tmp_path, "echo 'QEMU emulator version 8.1.0'"), QEMU)
    assert (found.said, found.error) == ("QEMU emulator version 8.1.0", "")
    assert "exit status 3" in gather_monitor(fake_qemu(tmp_path, "exit 3"), QEMU).error
    assert gather_monitor(host(tmp_path), QEMU).path is None


def test_a_monitor_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    there = fake_qemu(tmp_path, "exec sleep 1000")
    assert "timed out" in gather_monitor(there, QEMU, ask_s=0.2).error


def test_a_machine_without_anything_gets_advice_for_everything(tmp_path: Path) -> None:
    empty = host(tmp_path)
    for look in (
        doctor_checks.check_apt,
        doctor_checks.check_lz4,
        doctor_checks.check_socket,
        doctor_checks.check_daemon,
    ):
        assert level_of(look(empty)) is not Level.OK
    assert judge_kvm(gather_kvm(empty)).level is Level.WARN
    facts = gather_kernel(empty, os.geteuid(), wants_pager=True)
    assert judge_cgroup(facts).level is Level.WARN
    assert judge_clocksource(gather_clock(empty)).level is Level.SKIP


def test_kvm_needs_the_cpu_flag_then_the_device_then_a_machine_that_runs(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", "flags\t: fpu sse2\n")
    assert gather_kvm(host(tmp_path)).ran is None
    put(tmp_path, "proc/cpuinfo", "processor: 0\nflags\t: fpu svm sse2\n")
    assert "modprobe kvm_amd" in judge_kvm(gather_kvm(host(tmp_path))).hint
    put(tmp_path, "dev/kvm", "a plain file")
    found = gather_kvm(host(tmp_path))
    assert found.ran is not None
    assert "Inappropriate ioctl" in found.ran
    assert judge_kvm(found).level is Level.FAIL


def test_a_machine_that_hangs_in_kvm_is_not_waited_for() -> None:
    assert run_with_limit(["sleep", "1000"], 0.2) == "no answer within 0.2 s"
    assert run_with_limit(["true"], 20.0) == ""


def test_templates_are_measured_where_they_are(tmp_path: Path) -> None:
    put(tmp_path, "a/b/templates/python/memory", "x" * 100_000)
    room = gather_room(host(tmp_path))
    ((name, size),) = room.templates
    assert name == "python"
    assert size >= 100_000
    assert room.disk_free > 0


def test_a_directory_is_judged_as_the_daemons_start_does(tmp_path: Path) -> None:
    us = os.geteuid()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "file").touch()

    def problem(path: str, *uids: int) -> str:
        return gather_directory("paths.data_dir", tmp_path / path, uids or (us,)).problem

    assert problem(".") == problem("new/below") == ""
    assert "others can replace" in problem("open/mine")
    assert "is no directory" in problem("file")
    assert "is no directory" in problem("file/below")
    assert problem("/", us + 1) == f"it belongs to uid 0, agentd is uid {us + 1}"
    assert problem("/", us + 1, 0) == "", "one of whoever runs it, and whoever asks"
    assert gather_directory("paths.run_dir", tmp_path, (us,)).free_bytes > 0


def test_a_socket_is_seen_to_be_dead_alive_or_none(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert "No such file" in gather_socket(path).error
    path.write_text("")
    assert gather_socket(path).error == "it is no socket"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert "refused" in gather_socket(path).error
        server.listen()
        assert gather_socket(path).error == ""


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """Accepts, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_store_that_says_nothing_is_not_waited_for() -> None:
    with silent_server() as address:
        found = ask_store({"REDIS_ADDR": address}, answer_s=0.2)
    assert "timed out" in found.error


def test_a_store_that_answers_is_told_from_one_that_does_not(
    valkey_server: RedisServer,
) -> None:
    environ = {"STORE_TYPE": "valkey", "VALKEY_ADDR": valkey_server.url}
    assert "PONG" in ask_store(environ).said
    assert "refused" in ask_store({"REDIS_ADDR": "127.0.0.1:1"}).error
    assert ask_store({}).who == ""


def test_an_api_server_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    with silent_server() as address:
        put(tmp_path, "kubeconfig", KUBECONFIG.format(address=address))
        environ = {"KUBECONFIG": str(tmp_path / "kubeconfig")}
        found = ask_api_server(Settings(), environ, answer_s=0.3)
    assert found.error
    assert ask_api_server(Settings(), {}).who == ""


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: one
contexts: [{{name: one, context: {{cluster: one, user: one}}}}]
clusters: [{{name: one, cluster: {{server: "http://{address}"}}}}]
users: [{{name: one, user: {{token: none}}}}]
"""


def make_certificate(days: int) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days)).sign(key, hashes.SHA256())
    )  # fmt: skip
    return made.public_bytes(serialization.Encoding.PEM)


def test_certificates_are_found_wherever_settings_name_them(tmp_path: Path) -> None:
    (tmp_path / "proxy.pem").write_bytes(make_certificate(100))
    (tmp_path / "tls.crt").write_bytes(make_certificate(3))
    data = base64.b64encode(make_certificate(-1)).decode()
    put(tmp_path, "kubeconfig", f"users: [{{user: {{client-certificate-data: {data}}}}}]\n")
    put(tmp_path, "etc/snapstart/controlplane.toml", f"[webhooks]\ncertificate_dir = '{tmp_path}'")
    settings = Settings(
        proxy=Proxy(certificate_file=tmp_path / "proxy.pem"),
        node=Node(kubeconfig=str(tmp_path / "kubeconfig")),
    )
    found = gather_certificates(host(tmp_path), settings)
    assert [one.whose for one in found] == [
        "proxy.certificate_file", "webhooks.certificate_dir", "node.kubeconfig",
    ]  # fmt: skip
    assert [one.error for one in found] == ["", "", ""]
    check = judge_certificates(found, datetime.now(UTC))
    assert check.level is Level.FAIL
    assert "node.kubeconfig" in check.hint + check.detail


def test_what_is_no_certificate_is_told(tmp_path: Path) -> None:
    put(tmp_path, "proxy.pem", "nonsense")
    settings = Settings(proxy=Proxy(certificate_file=tmp_path / "proxy.pem"))
    (found,) = gather_certificates(host(tmp_path), settings)
    assert "no certificate" in found.error


def test_control_groups_and_package_lists_are_found(tmp_path: Path) -> None:
    put(tmp_path, "proc/mounts", "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n")
    put(tmp_path, "proc/self/cgroup", "0::/agentd.service\n")
    put(tmp_path, "sys/fs/cgroup/unified/agentd.service/cgroup.controllers", "cpu memory pids io\n")
    facts = gather_kernel(host(tmp_path), os.geteuid(), wants_pager=True)
    assert level_of(judge_cgroup(facts)) is Level.OK
    put(tmp_path, "var/lib/apt/lists/deb_main_binary-amd64_Packages.lz4", "")
    assert level_of(doctor_checks.check_apt(host(tmp_path))) is Level.OK


def test_the_program_that_unpacks_kernels_is_found(tmp_path: Path) -> None:
    put(tmp_path, "bin/lz4", "")
    (tmp_path / "bin/lz4").chmod(0o755)
    there = host(tmp_path, environ={"PATH": str(tmp_path / "bin")})
    assert level_of(doctor_checks.check_lz4(there)) is Level.OK


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


# For programs that read --json: none of them ever goes, or means something else.
IDS = (
    "system", "python", "agentd-settings", "kernel-userfaultfd", "memfd", "memfd-sealing", "pidfd",
    "pidfd_getfd", "cgroup", "cachestat", "kvm", "qemu", "firecracker", "cloud-hypervisor",
    "memory", "disk", "template-room", "clocksource", "tsc", "clock-sync", "limit-nofile",
    "limit-tasks", "limit-memlock", "limit-maps", "directories", "apt-lists", "lz4", "socket",
    "daemon", "pager-socket", "kuasar-admin-socket", "cri-socket", "api-server", "store",
    "certificates",
)  # fmt: skip


def test_the_exit_code_tells_failures_from_warnings(
    daemon: FakeLocalApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_qemu(tmp_path, "echo QEMU emulator version 8.1.0")
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    daemon.socket_path.chmod(0o660)
    args = ["doctor", "--state-dir", str(tmp_path), "--json", "--socket"]
    good = CliRunner().invoke(snapctl, [*args, str(daemon.socket_path)])
    assert good.exit_code == 0, good.output
    assert tuple(one["id"] for one in json.loads(good.stdout)["checks"]) == IDS
    bad = CliRunner().invoke(snapctl, [*args, str(tmp_path / "none")])
    assert bad.exit_code == 11
    plain = CliRunner().invoke(snapctl, ["doctor", "--socket", str(tmp_path / "none")])
    assert "WHAT TO DO" in plain.stdout


def test_settings_that_cannot_be_read_are_one_of_the_findings(tmp_path: Path) -> None:
    put(tmp_path, "agentd.toml", "[monitor]\nkind = 'xen'\n")
    done = CliRunner().invoke(
        snapctl, ["doctor", "--json", "--config", str(tmp_path / "agentd.toml")]
    )
    checks = {one["id"]: one for one in json.loads(done.stdout)["checks"]}
    assert done.exit_code == 11
    assert checks["agentd-settings"]["level"] == "fail"
    assert "xen" in checks["agentd-settings"]["detail"]


def test_a_daemon_that_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_checks, "DAEMON_S", 0.2)
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        check = doctor_checks.check_daemon(host(tmp_path, socket=str(path)))
    assert check.level is Level.FAIL
    assert "deadline_exceeded" in check.detail


def test_the_operator_page_names_every_check() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operator.md").read_text()
    assert [one for one in IDS if f"`{one}`" not in page] == []
