"""Look at this machine and say what SnapStart will miss on it."""

from __future__ import annotations

import enum
import fcntl
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from agentd.client import calls
from agentd.client.transport import Transport
from agentd.errors import ErrorCode, SnapStartError
from agentd.units import MIB

_QEMU = "qemu-system-x86_64"
_MIN_QEMU = (7, 2)
_MIN_MEMORY_MIB = 1024
_MIN_DISK_MIB = 2048
_KVM_GET_API_VERSION = 0xAE00  # linux/kvm.h; answers 12 on every kernel in use


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One look at the machine. hint: what to do, empty when nothing has to be done."""

    name: str
    level: Level
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Host:
    """Where to look. root: of the file system. socket: of agentd. state_dir: for templates."""

    root: Path
    socket: str
    state_dir: Path
    environ: Mapping[str, str]

    def read(self, path: str) -> str:
        """A file's text, empty if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return ""


Look = Callable[[Host], Check]


def run_checks(host: Host, looks: Iterable[Look] | None = None) -> list[Check]:
    """Every check of a machine that runs VMs of ours, the basic ones first, or those given.

    None of them raises or changes anything.
    """
    return [look(host) for look in (MACHINE if looks is None else looks)]


def check_linux(_host: Host) -> Check:
    """The kernel's kind and age."""
    system, release, machine = platform.system(), platform.release(), platform.machine()
    detail = f"{system} {release} {machine}"
    if system != "Linux" or machine != "x86_64":
        return Check("system", Level.FAIL, detail, "SnapStart needs Linux on x86_64")
    if _version(release) < (5, 14):
        hint = "use Linux 5.14 or newer: cgroup.kill and pidfds are needed"
        return Check("system", Level.WARN, detail, hint)
    return Check("system", Level.OK, detail)


def check_python(_host: Host) -> Check:
    """The interpreter; one too old for this package could not have started it."""
    return Check("python", Level.OK, platform.python_version())


def check_qemu(host: Host) -> Check:
    """The emulator and its version."""
    path = shutil.which(_QEMU, path=host.environ.get("PATH"))
    hint = "apt-get install qemu-system-x86"
    if path is None:
        return Check("qemu", Level.FAIL, f"{_QEMU} is not in PATH", hint)
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as exc:
        return Check("qemu", Level.FAIL, f"{path} does not run: {exc}", hint)
    first = done.stdout.partition("\n")[0]
    if _version(first) < _MIN_QEMU:
        return Check("qemu", Level.FAIL, f"{path}: {first}", "use QEMU 7.2 or newer")
    return Check("qemu", Level.OK, f"{path}: {first}")


def check_kvm(host: Host) -> Check:
    """Whether the cpu offers virtualisation and the kernel lets us use it."""
    flags = re.search(r"^flags\s*:(.*)$", host.read("proc/cpuinfo"), re.MULTILINE)
    found = {"vmx", "svm"} & set(flags.group(1).split() if flags else ())
    if not found:
        hint = "forks take 0.2-0.4 s under emulation; use a machine with (nested) virtualisation"
        return Check("kvm", Level.WARN, "the cpu has neither vmx nor svm: TCG is used", hint)
    flag = found.pop()
    try:
        fd = os.open(host.root / "dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        hint = "add the user of agentd to the group that owns /dev/kvm"
        return Check("kvm", Level.WARN, f"cpu has {flag}, /dev/kvm is not permitted", hint)
    except OSError as exc:
        hint = f"modprobe kvm_{'intel' if flag == 'vmx' else 'amd'}"
        return Check("kvm", Level.WARN, f"cpu has {flag}, /dev/kvm: {exc.strerror}", hint)
    try:
        version = fcntl.ioctl(fd, _KVM_GET_API_VERSION)
    except OSError as exc:
        hint = "check that /dev/kvm is the kernel's own device"
        return Check("kvm", Level.WARN, f"/dev/kvm does not answer: {exc.strerror}", hint)
    finally:
        os.close(fd)
    return Check("kvm", Level.OK, f"cpu has {flag}, /dev/kvm answers with API {version}")


def check_memfd(_host: Host) -> Check:
    """Whether memory can be sealed against change, memfd_create(2)."""
    try:
        fd = os.memfd_create("doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as exc:
        hint = "allow memfd_create(2) in the container's seccomp profile"
        return Check("memfd", Level.FAIL, f"memfd_create: {exc.strerror}", hint)
    try:
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        is_sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & seals == seals
    except OSError as exc:
        return Check("memfd", Level.FAIL, f"sealing: {exc.strerror}", "use Linux 3.17 or newer")
    finally:
        os.close(fd)
    if not is_sealed:
        return Check("memfd", Level.FAIL, "seals do not stick", "use another kernel")
    return Check("memfd", Level.OK, "memory can be sealed")


def check_cgroup(host: Host) -> Check:
    """Whether each machine can have a control group of its own."""
    if "cgroup2" in host.read("proc/mounts"):
        return Check("cgroup", Level.OK, "cgroup v2: each machine gets a group of its own")
    hint = "boot with systemd.unified_cgroup_hierarchy=1; without it, machines share agentd's group"
    return Check("cgroup", Level.WARN, "no cgroup v2 is mounted", hint)


def check_memory(_host: Host) -> Check:
    """Memory for a template and a few forks."""
    free_mib = psutil.virtual_memory().available // MIB
    if free_mib < _MIN_MEMORY_MIB:
        hint = f"free some: a template and its forks want {_MIN_MEMORY_MIB} MiB"
        return Check("memory", Level.WARN, f"{free_mib} MiB available", hint)
    return Check("memory", Level.OK, f"{free_mib} MiB available")


def check_disk(host: Host) -> Check:
    """Space for images and templates."""
    place = host.state_dir
    while not place.exists():
        place = place.parent
    free_mib = shutil.disk_usage(place).free // MIB
    detail = f"{free_mib} MiB free below {place}"
    if free_mib < _MIN_DISK_MIB:
        return Check(
            "disk", Level.WARN, detail, f"an image and a template want {_MIN_DISK_MIB} MiB"
        )
    return Check("disk", Level.OK, detail)


def check_apt(host: Host) -> Check:
    """Package lists, from which guest images are built."""
    folder = host.root / "var/lib/apt/lists"
    if any(folder.glob("*_Packages*")):
        return Check("apt lists", Level.OK, f"present in {folder}")
    hint = "run `apt-get update` before `snapctl image build`, or build with --rootfs"
    return Check("apt lists", Level.WARN, f"none in {folder}", hint)


def check_socket(host: Host) -> Check:
    """The daemon's socket and who may use it."""
    path = Path(host.socket)
    start = "start it with `agentd serve`, or name its socket with --socket or SNAPSTART_SOCKET"
    try:
        facts = path.stat()
    except OSError as exc:
        return Check("socket", Level.FAIL, f"{path}: {exc.strerror}", start)
    if not path.is_socket():
        return Check("socket", Level.FAIL, f"{path} is no socket", start)
    mode = facts.st_mode & 0o777
    detail = f"{path} mode {mode:04o} owner {facts.st_uid}:{facts.st_gid}"
    if mode & 0o007:
        hint = f"chmod o= {path}: whoever reaches it may run code in every session"
        return Check("socket", Level.WARN, f"{detail}, open to everybody", hint)
    if not os.access(path, os.R_OK | os.W_OK):
        hint = f"join group {facts.st_gid}, or run as its owner"
        return Check("socket", Level.FAIL, f"{detail}, not permitted to you", hint)
    return Check("socket", Level.OK, detail)


def check_daemon(host: Host) -> Check:
    """Whether the daemon answers, and with what."""
    transport = Transport(host.socket)
    try:
        status = transport.send(calls.status())
    except SnapStartError as exc:
        if exc.code is ErrorCode.AGENT_UNREACHABLE:
            return Check("daemon", Level.FAIL, exc.message, exc.hint)
        return Check("daemon", Level.FAIL, f"{exc.message} ({exc.code.value})", exc.hint)
    finally:
        transport.close()
    detail = (
        f"agentd {status.version}, {status.engine} {status.engine_version} with {status.accel}, "
        f"{status.templates} templates, {status.sessions} sessions"
    )
    return Check("daemon", Level.OK, detail)


MACHINE: Final[tuple[Look, ...]] = (
    check_linux,
    check_python,
    check_qemu,
    check_kvm,
    check_memfd,
    check_cgroup,
    check_memory,
    check_disk,
    check_apt,
    check_socket,
    check_daemon,
)
# What every provider needs.
DAEMON: Final[tuple[Look, ...]] = (check_linux, check_python, check_socket, check_daemon)


def _version(text: str) -> tuple[int, int]:
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)
