"""Judge what of the kernel SnapStart uses is there.

What the kernel allows is tried in processes that end with the question; nothing is changed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.cli import doctor_pager_probes as probes
from agentd.cli.doctor_checks import Check, Host, Level
from agentd.vmm.cgroup import parse_cgroup2_mount, parse_own_cgroup

_SYS_CACHESTAT: Final = 451  # linux 6.5, the same on every architecture
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
# What shows a machine's use, and what an operator could limit it by.
_CONTROLLERS: Final = ("cpu", "memory", "pids")


@dataclass(frozen=True)
class KernelFacts:
    """What was tried. Each text is empty where it works, else what the kernel said.

    userfaultfd: as `machine_uid`. device_mode: of /dev/userfaultfd, None without one. sysctl:
    vm.unprivileged_userfaultfd. pidfd_getfd: on another's process. controllers: of the group that
    machines' groups are made in; None without cgroup v2. can_make_groups: there. wants_pager: some
    monitor of this node leaves its memory to a page server.
    """

    machine_uid: int
    userfaultfd: str
    device_mode: int | None
    sysctl: str
    memfd: str
    sealing: str
    pidfd: str
    pidfd_getfd: str
    cachestat: str
    controllers: frozenset[str] | None
    can_make_groups: bool
    group: str = ""
    wants_pager: bool = True


def gather_kernel(host: Host, machine_uid: int, *, wants_pager: bool) -> KernelFacts:
    """Try all of it."""
    memfd, sealing = try_memfd()
    group, controllers = _find_group(host)
    return KernelFacts(
        machine_uid=machine_uid,
        userfaultfd=probes.try_userfaultfd(machine_uid),
        device_mode=_mode_of(host.root / "dev/userfaultfd"),
        sysctl=host.read("proc/sys/vm/unprivileged_userfaultfd").strip(),
        memfd=memfd,
        sealing=sealing,
        pidfd=try_pidfd(),
        pidfd_getfd=probes.try_take_over(machine_uid),
        cachestat=try_cachestat(),
        controllers=controllers,
        can_make_groups=group is not None and os.access(group, os.W_OK),
        group=str(group or ""),
        wants_pager=wants_pager,
    )


def judge_kernel(facts: KernelFacts) -> list[Check]:
    """Every check of this module."""
    return [
        judge_userfaultfd(facts),
        judge_memfd(facts.memfd),
        judge_sealing(facts.memfd, facts.sealing),
        judge_pidfd(facts.pidfd),
        judge_pidfd_getfd(facts),
        judge_cgroup(facts),
        judge_cachestat(facts.cachestat),
    ]


def judge_userfaultfd(facts: KernelFacts) -> Check:
    """Whether a monitor can hand its memory's faults to the page server, as its own user."""
    mode = "no /dev/userfaultfd" if facts.device_mode is None else f"mode {facts.device_mode:04o}"
    seen = f"/dev/userfaultfd: {mode}; vm.unprivileged_userfaultfd = {facts.sysctl or 'unknown'}"
    if not facts.userfaultfd:
        detail = f"uid {facts.machine_uid} may make one ({seen})"
        return Check("kernel userfaultfd", Level.OK, detail)
    hint = (
        "only page servers want it: give machines' users /dev/userfaultfd by its mode or an ACL, "
        "or set vm.unprivileged_userfaultfd=1"
    )
    detail = f"uid {facts.machine_uid}: {facts.userfaultfd} ({seen}): monitors map files"
    return Check("kernel userfaultfd", _level_of(facts), detail, hint)


def _level_of(facts: KernelFacts) -> Level:
    """Of what only page servers want."""
    return Level.WARN if facts.wants_pager else Level.SKIP


def judge_memfd(said: str) -> Check:
    """Whether memory can be a file without a name."""
    if not said:
        return Check("memfd", Level.OK, "memfd_create(2) works")
    hint = "allow memfd_create(2) in the container's seccomp profile"
    return Check("memfd", Level.FAIL, f"memfd_create(2): {said}", hint)


def judge_sealing(memfd: str, said: str) -> Check:
    """Whether it can be sealed against change, which is what makes a template safe to share."""
    if memfd:
        return Check("memfd sealing", Level.SKIP, "there is no memfd", "first see to `memfd`")
    if not said:
        return Check("memfd sealing", Level.OK, "memory can be sealed against writing and cutting")
    return Check("memfd sealing", Level.FAIL, f"F_ADD_SEALS: {said}", "use Linux 3.17 or newer")


def judge_pidfd(said: str) -> Check:
    """Whether a process can be held without its number being taken over."""
    if not said:
        return Check("pidfd", Level.OK, "pidfd_open(2) works")
    hint = "use Linux 5.3 or newer, and allow pidfd_open(2) in the container's seccomp profile"
    return Check("pidfd", Level.FAIL, f"pidfd_open(2): {said}", hint)


def judge_pidfd_getfd(facts: KernelFacts) -> Check:
    """Whether a page server's successor can take machines' userfaultfds over."""
    if not facts.pidfd_getfd:
        return Check("pidfd_getfd", Level.OK, "works on a machine's process")
    hint = (
        "only the page server wants it: run that as root with CAP_SYS_PTRACE, with "
        "kernel.yama.ptrace_scope below 3"
    )
    detail = f"on a machine's process: {facts.pidfd_getfd}"
    return Check("pidfd_getfd", _level_of(facts), detail, hint)


def judge_cgroup(facts: KernelFacts) -> Check:
    """Whether each machine can have a control group of its own, and what that shows."""
    if facts.controllers is None:
        hint = "boot with systemd.unified_cgroup_hierarchy=1; without, machines share one group"
        return Check("cgroup", Level.WARN, "no cgroup v2 is mounted", hint)
    names = " ".join(sorted(facts.controllers)) or "none"
    detail = f"cgroup v2 at {facts.group or 'an unknown place'}, controllers: {names}"
    if not facts.can_make_groups:
        hint = "run as the user of agentd; its unit needs Delegate=yes, a container its own cgroup"
        return Check("cgroup", Level.WARN, f"{detail}; no group can be made there", hint)
    missing = [name for name in _CONTROLLERS if name not in facts.controllers]
    if missing:
        hint = f"delegate {', '.join(missing)} to the unit (Delegate=yes); without, use is not told"
        return Check("cgroup", Level.WARN, f"{detail}; not delegated: {' '.join(missing)}", hint)
    return Check("cgroup", Level.OK, detail)


def judge_cachestat(said: str) -> Check:
    """Whether it can be told what of a template is in the page cache without mapping it."""
    if not said:
        return Check("cachestat", Level.OK, "cachestat(2) works")
    hint = "nothing has to be done: mincore(2) tells the same; Linux 6.5 has it"
    return Check("cachestat", Level.SKIP, f"cachestat(2): {said}", hint)


# -- trying ---------------------------------------------------------------------------------------


def try_memfd() -> tuple[str, str]:
    """Make one, seal it: what the kernel said to each."""
    try:
        fd = os.memfd_create("doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as exc:
        return str(exc.strerror), ""
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        is_sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError as exc:
        return "", str(exc.strerror)
    finally:
        os.close(fd)
    return "", "" if is_sealed else "seals do not stick"


def try_pidfd() -> str:
    """Hold ourselves."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as exc:
        return str(exc.strerror)
    return ""


def try_cachestat() -> str:
    """Call it with a descriptor that is none: a kernel that has it says so."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(_SYS_CACHESTAT, -1, None, None, 0)
    code = ctypes.get_errno()
    return "" if code in (errno.EBADF, errno.EFAULT) else os.strerror(code)


def _mode_of(path: Path) -> int | None:
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return None


def _find_group(host: Host) -> tuple[Path | None, frozenset[str] | None]:
    """Our own group, in which the daemon's machines would be if it were started from here."""
    mount = parse_cgroup2_mount(host.read("proc/mounts"))
    if mount is None:
        return None, None
    own = parse_own_cgroup(host.read("proc/self/cgroup"))
    group = host.root / str(mount).lstrip("/") / (own or "/").lstrip("/")
    return group, frozenset(_read(group / "cgroup.controllers").split())


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
