"""Look at what the page server needs to serve machines, and a successor to take them over.

Nothing is changed: what the kernel allows is tried in processes that end with the question.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.cli import doctor_pager_probes as probes
from agentd.cli.doctor_checks import Check, Host, Level
from agentd.errors import SnapStartError
from agentd.pager.client import PagerClient
from agentd.pager.places import TMPFS, PagerPlace, filesystem_of
from agentd.pager.process import is_command
from agentd.units import KIB, MIB
from agentd.wire.pager import About

_ANSWER_S: Final = 2.0
_PAGE_BYTES: Final = 4096
# Of a machine's journal whatever its size is (native/pager/journal.h), and for each page.
_JOURNAL_BYTES: Final = 48 * KIB
_JOURNAL_BITS: Final = 2
_CAP_IPC_LOCK: Final = 14  # linux/capability.h
_CAP_SYS_PTRACE: Final = 19
_FEW_MACHINES: Final = 256
TAKE_OVER_CALLS: Final = "pidfd_open, pidfd_getfd, pidfd_send_signal, process_vm_readv, mlock"
_SILENT: Final = "no page server answers"


@dataclass(frozen=True)
class Probes:
    """What is tried; each returns an empty text, or what the kernel said."""

    userfaultfd: Callable[[int], str] = probes.try_userfaultfd
    minor_faults: Callable[[], str] = probes.try_minor_faults
    take_over: Callable[[int], str] = probes.try_take_over


@dataclass(frozen=True)
class PagerNode:
    """Where to look. machine_uid: of some machine. memory_mib: of one. systemctl: its output."""

    host: Host
    place: PagerPlace
    is_off: bool
    machine_uid: int
    memory_mib: int
    probes: Probes
    systemctl: Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Running:
    """The page server that answers. supervisor: the pid of `snap-pager supervise`, 0 for none."""

    about: About
    status: Mapping[str, str]
    memlock_bytes: int | None
    environ: frozenset[str]
    supervisor: int
    unit: str


def run_pager_checks(node: PagerNode) -> list[Check]:
    """Every check, the page server itself first. None of them raises or changes anything."""
    if node.is_off:
        return [Check("page server", Level.OK, "pager.enabled is off: machines map files")]
    server, check = look_at_server(node)
    mountinfo = node.host.read("proc/self/mountinfo")
    return [
        check,
        check_userfaultfd(node),
        check_minor_faults(node.probes.minor_faults()),
        check_ptrace(node.probes.take_over(node.machine_uid), _yama(node.host)),
        check_rights(server),
        check_filters(server),
        check_keeper(server, node.systemctl),
        check_journal(node.place.journal_dir, mountinfo),
        check_memlock(server, node.memory_mib),
    ]


# -- the page server ------------------------------------------------------------------------------


def look_at_server(node: PagerNode) -> tuple[Running | None, Check]:
    """Whether one answers, and what of it the kernel shows."""
    client = PagerClient(node.place.control_socket)
    start = "agentd starts one where Firecracker's or Cloud Hypervisor's machines need it"
    if not client.has_socket():
        return None, Check("page server", Level.WARN, f"{_SILENT}: no {client.path}", start)
    try:
        about = asyncio.run(client.hello(deadline_s=_ANSWER_S))
    except SnapStartError as exc:
        return None, Check("page server", Level.FAIL, exc.message, exc.hint or start)
    detail = f"snap-pager {about.version}, pid {about.pid}, serves {about.machines} machines"
    return read_running(node, about), Check("page server", Level.OK, detail)


def read_running(node: PagerNode, about: About) -> Running:
    """What proc(5) says of a process; nothing where it does not let us see."""
    home = f"proc/{about.pid}"
    status = _pairs(node.host.read(f"{home}/status"))
    parent = status.get("PPid", "0")
    argv = node.host.read(f"proc/{parent}/cmdline").split("\0")
    is_supervised = is_command(argv, str(node.place.control_socket)) and "supervise" in argv
    environ = node.host.read(f"{home}/environ").split("\0")
    return Running(
        about,
        status,
        _memlock(node.host.read(f"{home}/limits")),
        frozenset(one.partition("=")[0] for one in environ),
        int(parent) if is_supervised else 0,
        _unit(node.host.read(f"{home}/cgroup")),
    )


def _pairs(text: str) -> dict[str, str]:
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in lines}


def _memlock(limits: str) -> int | None:
    """The soft limit in bytes, None for none or unknown."""
    found = re.search(r"^Max locked memory\s+(\d+)\s", limits, re.MULTILINE)
    return int(found[1]) if found else None


def _unit(cgroup: str) -> str:
    found = re.search(r"/([^/]+\.service)(?:/|$)", cgroup, re.MULTILINE)
    return found[1] if found else ""


# -- the kernel -----------------------------------------------------------------------------------


def check_userfaultfd(node: PagerNode) -> Check:
    """Whether a monitor can make a userfaultfd that sees KVM's faults, as its own user."""
    said = node.probes.userfaultfd(node.machine_uid)
    if not said:
        return Check("userfaultfd", Level.OK, f"uid {node.machine_uid} may make one")
    hint = (
        "give machines' users /dev/userfaultfd (its mode or an ACL, and DeviceAllow= of agentd's "
        "unit), or set vm.unprivileged_userfaultfd=1"
    )
    detail = f"uid {node.machine_uid}: {said}: monitors that run as it map files"
    return Check("userfaultfd", Level.WARN, detail, hint)


def check_minor_faults(said: str) -> Check:
    """Whether clones can share what they only read."""
    name = "minor faults"
    if not said:
        return Check(name, Level.OK, "a private mapping of a memfd shares its pages")
    hint = "use Linux 6.1 or newer; monitors that hand a memfd over are refused without"
    return Check(name, Level.WARN, f"on a private memfd: {said}", hint)


def check_ptrace(said: str, yama: str) -> Check:
    """Whether a successor can take a machine's userfaultfd out of its monitor."""
    name = "take-over"
    if not said:
        return Check(name, Level.OK, "pidfd_getfd(2) works on a machine's process")
    detail = f"pidfd_getfd(2) on a machine's process: {said}"
    if yama == "3":
        hint = "boot with kernel.yama.ptrace_scope below 3, which lets nobody trace"
    else:
        hint = "run the page server, and this check, as root with CAP_SYS_PTRACE"
    return Check(name, Level.FAIL, f"{detail}: no machine outlives the page server", hint)


def _yama(host: Host) -> str:
    return host.read("proc/sys/kernel/yama/ptrace_scope").strip()


def check_rights(server: Running | None) -> Check:
    """Whether the page server that runs has the capability it needs."""
    if server is None:
        return _not_seen("rights")
    bits = server.status.get("CapEff", "")
    if not bits:
        return _not_shown("rights", server)
    if int(bits, 16) >> _CAP_SYS_PTRACE & 1:
        return Check("rights", Level.OK, "the page server has CAP_SYS_PTRACE")
    hint = "add CAP_SYS_PTRACE to CapabilityBoundingSet= of what starts it, and run it as root"
    detail = "the page server lacks CAP_SYS_PTRACE: it can take nothing over, record nothing"
    return Check("rights", Level.FAIL, detail, hint)


def check_filters(server: Running | None) -> Check:
    """Whether system calls of the page server are filtered; which, no kernel tells."""
    if server is None:
        return _not_seen("filters")
    mode = server.status.get("Seccomp", "")
    if mode == "0":
        return Check("filters", Level.OK, "no seccomp filter on the page server")
    if not mode:
        return _not_shown("filters", server)
    count = server.status.get("Seccomp_filters", "some")
    hint = (
        f"let SystemCallFilter= of its unit allow {TAKE_OVER_CALLS}; `@system-service` lacks some"
    )
    return Check("filters", Level.WARN, f"{count} seccomp filters on the page server", hint)


def check_keeper(server: Running | None, systemctl: Callable[[Sequence[str]], str]) -> Check:
    """Whether somebody holds userfaultfds that monitors do not keep."""
    if server is None:
        return _not_seen("keeper")
    if server.supervisor:
        detail = f"snap-pager supervise, pid {server.supervisor}"
        return Check("keeper", Level.OK, detail)
    none = "none: a machine whose monitor keeps no userfaultfd is refused"
    hint = "start it by `snap-pager supervise`, or in a unit with FileDescriptorStoreMax="
    if "NOTIFY_SOCKET" not in server.environ or not server.unit:
        return Check("keeper", Level.WARN, none, hint)
    most = systemctl(["show", "--property=FileDescriptorStoreMax", "--value", server.unit]).strip()
    if most == "0":
        return Check("keeper", Level.WARN, f"{server.unit} keeps no descriptors: {none}", hint)
    return Check("keeper", Level.OK, f"systemd, for {server.unit}: {most or '?'} descriptors")


# -- memory ---------------------------------------------------------------------------------------


def check_journal(path: Path, mountinfo: str) -> Check:
    """Whether what a successor needs stays in memory."""
    kind = filesystem_of(path, mountinfo)
    if kind == TMPFS:
        return Check("journal", Level.OK, f"{path} is on a tmpfs")
    hint = "set pager.journal_dir to a directory on a tmpfs, such as one below /dev/shm"
    return Check("journal", Level.FAIL, f"{path} is on {kind or 'an unknown file system'}", hint)


def check_memlock(server: Running | None, memory_mib: int) -> Check:
    """Whether journals of enough machines may be locked into memory. memory_mib: of one."""
    if server is None:
        return _not_seen("memlock")
    caps = int(server.status.get("CapEff") or "0", 16)
    if caps >> _CAP_IPC_LOCK & 1 or server.memlock_bytes is None:
        return Check("memlock", Level.OK, "the page server may lock what it needs")
    machines = server.memlock_bytes // journal_bytes(memory_mib)
    detail = (
        f"{server.memlock_bytes / MIB:g} MiB: journals of {machines} machines of {memory_mib} MiB"
    )
    if machines >= _FEW_MACHINES:
        return Check("memlock", Level.OK, detail)
    return Check("memlock", Level.WARN, detail, "raise LimitMEMLOCK= of what starts it")


def journal_bytes(memory_mib: int) -> int:
    """About what the journal of one machine takes."""
    return _JOURNAL_BYTES + memory_mib * MIB // _PAGE_BYTES * _JOURNAL_BITS // 8


def _not_seen(name: str) -> Check:
    return Check(name, Level.WARN, f"not seen: {_SILENT}", "first see to `page server`")


def _not_shown(name: str, server: Running) -> Check:
    detail = f"/proc/{server.about.pid}/status does not say"
    return Check(name, Level.WARN, detail, "run this check as root, on the page server's host")


def ask_systemctl(words: Sequence[str]) -> str:
    """The output of systemctl, empty if there is none."""
    try:
        done = subprocess.run(
            ["systemctl", *words], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
