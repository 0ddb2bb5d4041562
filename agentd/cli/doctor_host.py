"""Judge room, clock and limits of this machine."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.cli.doctor_checks import Check, Host, Level
from agentd.units import KIB, MIB

_MIN_MEMORY_MIB: Final = 1024
_MIN_DISK_MIB: Final = 2048
_NO_DISK_MIB: Final = 64
_BLOCK_BYTES: Final = 512  # of st_blocks, stat(2)
_GOOD_CLOCKS: Final = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page")
_TIMEX_BYTES: Final = 256  # more than struct timex has, adjtimex(2)
_STATUS_AT: Final = 40
_MAX_ERROR_AT: Final = 24
_STA_UNSYNC: Final = 0x40
# What a session takes of each: about, and with room for what else the daemon has.
_FILES_OF_SESSION: Final = 10
_FILES_OF_DAEMON: Final = 512
_TASKS_OF_SESSION: Final = 8
_MIN_MAPS: Final = 65530  # the kernel's default; a process of QEMU has some hundred


@dataclass(frozen=True)
class HostRoom:
    """Bytes. templates: what each takes on disk, by name. shmem: loaded templates are in it."""

    place: str
    disk_free: int
    memory_available: int
    shmem: int
    templates: tuple[tuple[str, int], ...]

    @property
    def largest(self) -> int:
        """Of the templates, 0 if there is none."""
        return max((size for _, size in self.templates), default=0)

    @property
    def total(self) -> int:
        """Of all templates."""
        return sum(size for _, size in self.templates)


@dataclass(frozen=True)
class ClockFacts:
    """source: of the kernel. flags: of the cpu, about its TSC. status: of adjtimex(2), None if it
    said nothing; max_error_us likewise.
    """

    source: str
    flags: frozenset[str]
    status: int | None
    max_error_us: int


@dataclass(frozen=True)
class LimitFacts:
    """whose: the process. None is no limit, or not known. sessions: `admission.max_sessions`."""

    whose: str
    files: int | None
    memlock: int | None
    processes: int | None
    threads_max: int | None
    pid_max: int | None
    max_map_count: int | None
    sessions: int


def gather_room(host: Host) -> HostRoom:
    """Look at the disk of the templates, and at memory."""
    place = host.state_dir
    while not place.exists():
        place = place.parent
    memory = parse_meminfo(host.read("proc/meminfo"))
    return HostRoom(
        str(place),
        shutil.disk_usage(place).free,
        memory.get("MemAvailable", 0),
        memory.get("Shmem", 0),
        tuple(sorted(_templates(host.state_dir / "templates"))),
    )


def gather_clock(host: Host) -> ClockFacts:
    """Look at the kernel's clock, its synchronisation, and what the cpu says of its TSC."""
    found = re.search(r"^flags\s*:(.*)$", host.read("proc/cpuinfo"), re.MULTILINE)
    flags = frozenset(found.group(1).split() if found else ())
    where = "sys/devices/system/clocksource/clocksource0/current_clocksource"
    status, error_us = read_adjtimex()
    wanted = {"constant_tsc", "nonstop_tsc", "tsc_known_freq"}
    return ClockFacts(host.read(where).strip(), flags & wanted, status, error_us)


def gather_limits(host: Host, pid: int | None, sessions: int) -> LimitFacts:
    """pid: of the daemon, None if it does not run: then our own limits stand in."""
    text = host.read(f"proc/{pid}/limits") if pid else ""
    whose = f"agentd, pid {pid}" if text else "this shell (agentd's own were not seen)"
    text = text or host.read("proc/self/limits")
    return LimitFacts(
        whose,
        parse_limit(text, "Max open files"),
        parse_limit(text, "Max locked memory"),
        parse_limit(text, "Max processes"),
        _number(host.read("proc/sys/kernel/threads-max")),
        _number(host.read("proc/sys/kernel/pid_max")),
        _number(host.read("proc/sys/vm/max_map_count")),
        sessions,
    )


# -- judging --------------------------------------------------------------------------------------


def judge_disk(room: HostRoom) -> Check:
    """Space for images and templates: a rebuilt one is there beside the one it replaces."""
    free_mib = room.disk_free // MIB
    detail = f"{free_mib} MiB free below {room.place}"
    if room.templates:
        detail += f"; {len(room.templates)} templates, the largest {room.largest // MIB} MiB"
    wanted = max(_MIN_DISK_MIB, 2 * room.largest // MIB)
    hint = f"an image and a template want {wanted} MiB: free some, or set paths.data_dir"
    if free_mib < _NO_DISK_MIB:
        return Check("disk", Level.FAIL, detail, hint)
    if free_mib < wanted:
        return Check("disk", Level.WARN, detail, hint)
    return Check("disk", Level.OK, detail)


def judge_memory(room: HostRoom) -> Check:
    """Memory for a template and a few forks."""
    free_mib = room.memory_available // MIB
    detail = f"{free_mib} MiB available"
    if free_mib < _MIN_MEMORY_MIB:
        hint = f"free some: a template and its forks want {_MIN_MEMORY_MIB} MiB"
        return Check("memory", Level.WARN, detail, hint)
    return Check("memory", Level.OK, detail)


def judge_template_room(room: HostRoom) -> Check:
    """Whether all templates can be in memory at once; loaded ones are there, as shared memory."""
    name = "template room"
    if not room.templates:
        return Check(name, Level.SKIP, f"no template below {room.place}", "build one, then ask")
    there = room.memory_available + room.shmem
    detail = (
        f"{len(room.templates)} templates, {room.total // MIB} MiB; {there // MIB} MiB for them"
    )
    if room.total > there:
        hint = "remove templates, or add memory: those that were used stay loaded"
        return Check(name, Level.WARN, detail, hint)
    return Check(name, Level.OK, detail)


def judge_clocksource(clock: ClockFacts) -> Check:
    """What the kernel reads the time from; a slow one makes every guest slow."""
    if not clock.source:
        return Check("clocksource", Level.SKIP, "the kernel does not tell", "look below /sys")
    if clock.source in _GOOD_CLOCKS:
        return Check("clocksource", Level.OK, clock.source)
    hint = "find out why the kernel gave the TSC up (dmesg): each reading of the clock is a call"
    return Check("clocksource", Level.WARN, clock.source, hint)


def judge_tsc(clock: ClockFacts) -> Check:
    """Whether the TSC counts at one rate, also while the cpu sleeps: templates note that rate."""
    seen = f"cpu flags: {' '.join(sorted(clock.flags)) or 'none of the TSC'}"
    if {"constant_tsc", "nonstop_tsc"} <= clock.flags:
        return Check("tsc", Level.OK, seen)
    hint = "use a host that shows an invariant TSC; without, templates do not note its rate"
    return Check("tsc", Level.WARN, seen, hint)


def judge_clock_sync(clock: ClockFacts) -> Check:
    """Whether somebody keeps this clock right: forks take their time from it."""
    if clock.status is None:
        hint = "allow adjtimex(2), or ask the host"
        return Check("clock sync", Level.SKIP, "adjtimex(2) is not permitted here", hint)
    if clock.status & _STA_UNSYNC:
        hint = "run an NTP client (chrony, systemd-timesyncd) on the host"
        return Check("clock sync", Level.WARN, "the kernel says that nobody keeps the clock", hint)
    detail = f"synchronised, wrong by {clock.max_error_us / 1000:.0f} ms at most"
    return Check("clock sync", Level.OK, detail)


def judge_files(limits: LimitFacts) -> Check:
    """Descriptors for all sessions."""
    wanted = limits.sessions * _FILES_OF_SESSION + _FILES_OF_DAEMON
    hint = f"LimitNOFILE={wanted} in agentd's unit, or fewer admission.max_sessions"
    return _enough("limit nofile", limits.files, wanted, limits, hint)


def judge_tasks(limits: LimitFacts) -> Check:
    """Processes and threads for all sessions."""
    known = [one for one in (limits.processes, limits.threads_max, limits.pid_max) if one]
    wanted = limits.sessions * _TASKS_OF_SESSION
    hint = "raise LimitNPROC=, kernel.threads-max, kernel.pid_max, or TasksMax= of the unit"
    return _enough("limit tasks", min(known, default=None), wanted, limits, hint)


def judge_memlock(limits: LimitFacts) -> Check:
    """Locked memory; only page servers and monitors with huge pages lock any."""
    if limits.memlock is None:
        return Check("limit memlock", Level.OK, f"no limit for {limits.whose}")
    detail = f"{limits.memlock // KIB} KiB for {limits.whose}; `snapctl doctor --pager` judges it"
    return Check("limit memlock", Level.OK, detail)


def judge_maps(limits: LimitFacts) -> Check:
    """Mappings of one process: a monitor needs some for each region of its guest's memory."""
    if limits.max_map_count is None:
        return Check("limit maps", Level.SKIP, "vm.max_map_count is not told", "look at sysctl -a")
    detail = f"vm.max_map_count = {limits.max_map_count}"
    if limits.max_map_count < _MIN_MAPS:
        return Check("limit maps", Level.WARN, detail, f"sysctl vm.max_map_count={_MIN_MAPS}")
    return Check("limit maps", Level.OK, detail)


def _enough(name: str, there: int | None, wanted: int, limits: LimitFacts, hint: str) -> Check:
    text = "no limit" if there is None else str(there)
    detail = f"{text} for {limits.whose}; {limits.sessions} sessions want {wanted}"
    if there is not None and there < wanted:
        return Check(name, Level.WARN, detail, hint)
    return Check(name, Level.OK, detail)


# -- reading --------------------------------------------------------------------------------------


def parse_meminfo(text: str) -> dict[str, int]:
    """Bytes by name."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)
    return {name: int(value) * KIB for name, value in found}


def parse_limit(text: str, name: str) -> int | None:
    """The soft limit of proc_pid_limits(5), None for none or unknown."""
    found = re.search(rf"^{name}\s+(\d+)\s", text, re.MULTILINE)
    return int(found[1]) if found else None


def read_adjtimex() -> tuple[int | None, int]:
    """The status bits of the kernel's clock, with its greatest error in microseconds."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    if libc.adjtimex(buffer) < 0:
        return None, 0
    (status,) = struct.unpack_from("=i", buffer.raw, _STATUS_AT)
    (error_us,) = struct.unpack_from("=q", buffer.raw, _MAX_ERROR_AT)
    return status, error_us


def _templates(home: Path) -> list[tuple[str, int]]:
    """What each takes on disk; those that we may not read are left out."""
    try:
        folders = [one for one in home.iterdir() if one.is_dir()]
        return [(folder.name, _disk_bytes(folder)) for folder in folders]
    except OSError:
        return []


def _disk_bytes(folder: Path) -> int:
    files = (os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(file).st_blocks * _BLOCK_BYTES for file in files)


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
