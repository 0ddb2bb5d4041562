"""Every verdict of every check, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentd.cli import doctor_host as host
from agentd.cli import doctor_kernel as kernel
from agentd.cli.doctor_certificates import CertificateFacts, judge_certificates
from agentd.cli.doctor_checks import Check, Level
from agentd.cli.doctor_directories import DirectoryFacts, judge_directories
from agentd.cli.doctor_kvm import KvmFacts, judge_kvm
from agentd.cli.doctor_monitors import (
    CLOUD_HYPERVISOR,
    FIRECRACKER,
    MONITORS,
    QEMU,
    Monitor,
    MonitorFacts,
    judge_monitor,
)
from agentd.cli.doctor_reach import Answer, SocketFacts, judge_answer, judge_socket, parse_store
from agentd.units import MIB

GIB = 1024 * MIB

OK, WARN, FAIL, SKIP = Level.OK, Level.WARN, Level.FAIL, Level.SKIP

GOOD = kernel.KernelFacts(
    machine_uid=1000, userfaultfd="", device_mode=0o666, sysctl="0", memfd="", sealing="",
    pidfd="", pidfd_getfd="", cachestat="", controllers=frozenset({"cpu", "memory", "pids"}),
    can_make_groups=True, group="/sys/fs/cgroup/agentd.service",
)  # fmt: skip


def judged(name: str, **changed: object) -> Check:
    checks = {one.name: one for one in kernel.judge_kernel(replace(GOOD, **changed))}  # type: ignore[arg-type]
    return checks[name]


def explained(check: Check, level: Level) -> None:
    """Whatever is not well says what to do."""
    assert check.level is level, check
    assert check.detail
    assert check.hint or level is OK


@pytest.mark.parametrize(
    ("name", "changed", "level"),
    [
        ("kernel userfaultfd", {}, OK),
        ("kernel userfaultfd", {"userfaultfd": "EPERM", "device_mode": None}, WARN),
        ("kernel userfaultfd", {"userfaultfd": "EPERM", "wants_pager": False}, SKIP),
        ("memfd", {}, OK),
        ("memfd", {"memfd": "ENOSYS"}, FAIL),
        ("memfd sealing", {}, OK),
        ("memfd sealing", {"sealing": "EINVAL"}, FAIL),
        ("memfd sealing", {"memfd": "ENOSYS"}, SKIP),
        ("pidfd", {}, OK),
        ("pidfd", {"pidfd": "ENOSYS"}, FAIL),
        ("pidfd_getfd", {}, OK),
        ("pidfd_getfd", {"pidfd_getfd": "EPERM"}, WARN),
        ("pidfd_getfd", {"pidfd_getfd": "EPERM", "wants_pager": False}, SKIP),
        ("cgroup", {}, OK),
        ("cgroup", {"controllers": None}, WARN),
        ("cgroup", {"can_make_groups": False}, WARN),
        ("cgroup", {"controllers": frozenset({"cpu"})}, WARN),
        ("cachestat", {}, OK),
        ("cachestat", {"cachestat": "ENOSYS"}, SKIP),
    ],
)
def test_the_kernel(name: str, changed: dict[str, object], level: Level) -> None:
    explained(judged(name, **changed), level)


def test_what_is_not_delegated_is_named() -> None:
    assert "memory pids" in judged("cgroup", controllers=frozenset({"cpu"})).detail


@pytest.mark.parametrize(
    ("data", "run", "level", "words"),
    [
        ({}, {}, OK, "1024 MiB free in /run/s"),
        ({}, {"free_files": None}, OK, ""),
        ({"problem": "others can replace /srv"}, {}, FAIL, "data_dir /run/s: others can"),
        ({"free_bytes": 0}, {}, OK, ""),
        ({}, {"problem": "it belongs to uid 7"}, FAIL, "run_dir"),
        ({}, {"free_bytes": MIB}, WARN, "1 MiB free"),
        ({}, {"free_files": 3}, WARN, "for 3 files"),
    ],
    ids=["good", "no-limit", "replaceable", "data-full", "foreign", "full", "no-inodes"],
)
def test_directories(
    data: dict[str, object], run: dict[str, object], level: Level, words: str
) -> None:
    good = DirectoryFacts("paths.run_dir", Path("/run/s"), "", GIB, 10_000)
    of_data = replace(good, setting="paths.data_dir", **data)  # type: ignore[arg-type]
    check = judge_directories(of_data, replace(good, **run))  # type: ignore[arg-type]
    explained(check, level)
    assert words in check.detail


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (KvmFacts("vmx", "", ""), OK, "ran"),
        (KvmFacts("", "", None), WARN, "opens all the same"),
        (KvmFacts("", "No such file", None), WARN, "TCG"),
        (KvmFacts("svm", "Permission denied", None), WARN, "Permission denied"),
        (KvmFacts("vmx", "", "no answer within 5 s"), FAIL, "did not run"),
    ],
    ids=["real", "para-virtual", "none", "forbidden", "hangs"],
)
def test_kvm(facts: KvmFacts, level: Level, words: str) -> None:
    check = judge_kvm(facts)
    explained(check, level)
    assert words in check.detail


@pytest.mark.parametrize(
    ("monitor", "said", "level"),
    [
        (QEMU, "QEMU emulator version 8.1.0", OK),
        (QEMU, "QEMU emulator version 7.2.22 (Debian)", OK),
        (QEMU, "QEMU emulator version 7.1.9", FAIL),
        (QEMU, "QEMU Pro 9", FAIL),
        (FIRECRACKER, "Firecracker v1.16.1", OK),
        (FIRECRACKER, "Firecracker v1.16.0", WARN),
        (FIRECRACKER, "Firecracker v1.10.1", WARN),
        (FIRECRACKER, "Firecracker v1.7.0", FAIL),
        (CLOUD_HYPERVISOR, "cloud-hypervisor v53.0", OK),
        (CLOUD_HYPERVISOR, "cloud-hypervisor v52.0", WARN),
        (CLOUD_HYPERVISOR, "cloud-hypervisor v51.1.0", WARN),
        (CLOUD_HYPERVISOR, "cloud-hypervisor v47.0", FAIL),
    ],
)
def test_monitors_by_their_versions(monitor: Monitor, said: str, level: Level) -> None:
    explained(judge_monitor(monitor, MonitorFacts("/bin/x", said), is_chosen=True), level)


@pytest.mark.parametrize("monitor", MONITORS, ids=lambda one: one.kind)
def test_only_the_chosen_monitor_has_to_be_there(monitor: Monitor) -> None:
    for facts, other in (
        (MonitorFacts(None), SKIP),
        (MonitorFacts("/bin/x", error="exit 3"), WARN),
        (MonitorFacts("/bin/x", "nonsense"), WARN),
    ):
        explained(judge_monitor(monitor, facts, is_chosen=True), FAIL)
        explained(judge_monitor(monitor, facts, is_chosen=False), other)
    old = MonitorFacts("/bin/x", f"{monitor.banner} v0.1.0")
    explained(judge_monitor(monitor, old, is_chosen=False), WARN)


@pytest.mark.parametrize("monitor", MONITORS, ids=lambda one: one.kind)
def test_what_is_known_of_versions_has_a_reason(monitor: Monitor) -> None:
    for one in monitor.known:
        assert one.since < one.until
        assert one.level in (WARN, FAIL)
        assert one.why
        assert one.hint


ROOM = host.HostRoom("/var", 10 * GIB, 8 * GIB, GIB, (("python", 250 * MIB),))


@pytest.mark.parametrize(
    ("judge", "room", "level"),
    [
        (host.judge_disk, ROOM, OK),
        (host.judge_disk, replace(ROOM, disk_free=GIB), WARN),
        (host.judge_disk, replace(ROOM, templates=(("big", 6 * GIB),)), WARN),
        (host.judge_disk, replace(ROOM, disk_free=MIB), FAIL),
        (host.judge_memory, ROOM, OK),
        (host.judge_memory, replace(ROOM, memory_available=MIB), WARN),
        (host.judge_template_room, ROOM, OK),
        (host.judge_template_room, replace(ROOM, templates=(("big", 10 * GIB),)), WARN),
        (host.judge_template_room, replace(ROOM, templates=()), SKIP),
    ],
)
def test_room(judge: object, room: host.HostRoom, level: Level) -> None:
    explained(judge(room), level)  # type: ignore[operator]


CLOCK = host.ClockFacts("tsc", frozenset({"constant_tsc", "nonstop_tsc"}), 0, 5000)


@pytest.mark.parametrize(
    ("judge", "clock", "level"),
    [
        (host.judge_clocksource, CLOCK, OK),
        (host.judge_clocksource, replace(CLOCK, source="hpet"), WARN),
        (host.judge_clocksource, replace(CLOCK, source=""), SKIP),
        (host.judge_tsc, CLOCK, OK),
        (host.judge_tsc, replace(CLOCK, flags=frozenset({"constant_tsc"})), WARN),
        (host.judge_clock_sync, CLOCK, OK),
        (host.judge_clock_sync, replace(CLOCK, status=0x40), WARN),
        (host.judge_clock_sync, replace(CLOCK, status=None), SKIP),
    ],
)
def test_clock(judge: object, clock: host.ClockFacts, level: Level) -> None:
    explained(judge(clock), level)  # type: ignore[operator]


LIMITS = host.LimitFacts("agentd", 65536, None, None, 100000, 100000, 65530, 512)


@pytest.mark.parametrize(
    ("judge", "limits", "level"),
    [
        (host.judge_files, LIMITS, OK),
        (host.judge_files, replace(LIMITS, files=None), OK),
        (host.judge_files, replace(LIMITS, files=1024), WARN),
        (host.judge_tasks, LIMITS, OK),
        (host.judge_tasks, replace(LIMITS, processes=100), WARN),
        (host.judge_tasks, replace(LIMITS, pid_max=100), WARN),
        (host.judge_memlock, LIMITS, OK),
        (host.judge_memlock, replace(LIMITS, memlock=65536), OK),
        (host.judge_maps, LIMITS, OK),
        (host.judge_maps, replace(LIMITS, max_map_count=1000), WARN),
        (host.judge_maps, replace(LIMITS, max_map_count=None), SKIP),
    ],
)
def test_limits(judge: object, limits: host.LimitFacts, level: Level) -> None:
    explained(judge(limits), level)  # type: ignore[operator]


def test_limits_are_read_as_proc_writes_them() -> None:
    text = "Max processes             63704                63704                processes \n"
    text += "Max open files            1024                 524288               files     \n"
    text += "Max locked memory         unlimited            unlimited            bytes     \n"
    assert host.parse_limit(text, "Max open files") == 1024
    assert host.parse_limit(text, "Max locked memory") is None
    assert host.parse_limit("", "Max processes") is None


@pytest.mark.parametrize(
    ("facts", "is_needed", "level"),
    [
        (SocketFacts(Path("/s"), 0o660, "0:0"), True, OK),
        (SocketFacts(Path("/s"), 0o666, "0:0"), True, WARN),
        (SocketFacts(Path("/s"), error="gone"), True, FAIL),
        (SocketFacts(Path("/s"), error="gone"), False, WARN),
        (None, True, SKIP),
    ],
)
def test_sockets(facts: SocketFacts | None, is_needed: bool, level: Level) -> None:
    explained(judge_socket("a socket", facts, "its.setting", is_needed=is_needed), level)


@pytest.mark.parametrize(
    ("answer", "level"),
    [
        (Answer("host:1", "+PONG"), OK),
        (Answer("host:1", error="refused"), FAIL),
        (Answer(""), SKIP),
    ],
)
def test_who_is_far_away(answer: Answer, level: Level) -> None:
    explained(judge_answer("store", answer, "REDIS_ADDR", "look at it"), level)


@pytest.mark.parametrize(
    ("address", "who", "is_tls"),
    [
        ("redis:6379", "redis:6379", False),
        ("rediss://:secret@store", "store:6379", True),
        ("valkey+sentinel://a,b:5/main", "a:26379", False),
        ("unix:///run/redis.sock", "/run/redis.sock", False),
    ],
)
def test_the_store_s_address_is_read_without_its_password(
    address: str, who: str, is_tls: bool
) -> None:
    found, _, tls = parse_store(address)
    assert (found, tls) == (who, is_tls)


NOW = datetime(2030, 1, 1, tzinfo=UTC)


def certificate(begins_days: float, ends_days: float) -> CertificateFacts:
    begins, ends = NOW + timedelta(days=begins_days), NOW + timedelta(days=ends_days)
    return CertificateFacts("proxy.certificate_file", "/tls.crt", begins, ends)


@pytest.mark.parametrize(
    ("found", "level"),
    [
        ([certificate(-10, 300)], OK),
        ([certificate(-10, 300), certificate(-10, 3)], WARN),
        ([certificate(-10, 3), certificate(-10, -1)], FAIL),
        ([certificate(1, 300)], FAIL),
        ([CertificateFacts("proxy.certificate_file", "/tls.crt", error="gone")], FAIL),
        ([], SKIP),
    ],
    ids=["young", "soon", "over", "not yet", "unreadable", "none"],
)
def test_certificates(found: list[CertificateFacts], level: Level) -> None:
    explained(judge_certificates(found, NOW), level)
