"""Bring a VM up from the kernel's hand-over to where the runtime can start."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from agentd.guest import sysapi
from agentd.guest.settings import Settings
from agentd.guest.sysapi import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID
from agentd.guest.vsock_port import has_vsock

MODULES_FILE = "/etc/snapstart/modules"
VSOCK_MODULES_FILE = "/etc/snapstart/modules-vsock"
STATE_DIR = "/run/snapstart"
BOOT_ID_FILE = f"{STATE_DIR}/boot_id"
CGROUP_ROOT = "/sys/fs/cgroup"
_KERNEL_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC

# source, target, type, flags, data, whether a kernel without it can do
_MOUNTS = (
    ("proc", "/proc", "proc", _SAFE, "", False),
    ("sysfs", "/sys", "sysfs", _SAFE, "", False),
    ("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755", False),
    ("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777", True),
    ("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666", True),
    ("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755", False),
    ("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777", False),
    ("cgroup2", CGROUP_ROOT, "cgroup2", _SAFE, "", True),
)


def mount_all() -> None:
    """Mount what user space expects. Raises OSError when a needed file system fails."""
    for source, target, kind, flags, data, is_optional in _MOUNTS:
        try:
            os.makedirs(target, exist_ok=True)
            sysapi.mount(source, target, kind, flags, data)
        except OSError as exc:
            # The kernel mounts a devtmpfs by itself when it is configured to (EBUSY).
            if not is_optional and not os.path.ismount(target):
                raise
            print(f"snapstart: mounting {target}: {exc}, going on without", file=sys.stderr)


def make_links() -> None:
    """The links that udev makes on other systems."""
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        with suppress(FileExistsError):
            os.symlink(f"/proc/self/fd{target}", f"/dev/{name}")


def load_modules(listing: str = MODULES_FILE) -> None:
    """Load the modules the image lists, in order. Raises OSError naming the one that failed."""
    with suppress(FileNotFoundError):
        for line in Path(listing).read_text("utf-8").splitlines():
            if line.strip():
                sysapi.load_module(line.strip())


def cover_boot_id() -> None:
    """Bind a file of ours over the boot id: a restore changes it by writing to that file."""
    os.makedirs(STATE_DIR, mode=0o755, exist_ok=True)
    Path(BOOT_ID_FILE).write_bytes(Path(_KERNEL_BOOT_ID).read_bytes())
    sysapi.mount(BOOT_ID_FILE, _KERNEL_BOOT_ID, "", MS_BIND)


def make_cgroups(settings: Settings) -> bool:
    """The cgroups for what runs with the rights of user code; False when the kernel has none."""
    try:
        os.makedirs(settings.cgroup, exist_ok=True)
        os.makedirs(settings.http_cgroup, exist_ok=True)
        with suppress(OSError):
            Path(CGROUP_ROOT, "cgroup.subtree_control").write_text("+pids", "ascii")
        for cgroup in (settings.cgroup, settings.http_cgroup):
            with suppress(OSError):
                Path(cgroup, "pids.max").write_text(str(settings.max_processes), "ascii")
        return Path(settings.cgroup, "cgroup.procs").exists()
    except OSError:
        return False


def prepare_directories(settings: Settings) -> None:
    """The workspace, owned by the user that the code runs as."""
    os.makedirs(settings.workspace, exist_ok=True)
    if settings.uid is not None and settings.gid is not None:
        os.chown(settings.workspace, settings.uid, settings.gid)


def protect_self() -> None:
    """Never be the one the kernel kills for want of memory."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000", "ascii")


def bring_up_network() -> None:
    """127.0.0.1, the only address there is; a kernel without networks goes on without."""
    try:
        sysapi.bring_up_loopback()
    except OSError as exc:
        print(f"snapstart: bringing up lo: {exc}, going on without", file=sys.stderr)


def bring_up() -> None:
    """All of it, in order, as PID 1 of a VM of ours."""
    mount_all()
    make_links()
    load_modules()
    if has_vsock():
        load_modules(VSOCK_MODULES_FILE)
    bring_up_network()
    cover_boot_id()


def ends_by_reset(cmdline: str = "/proc/cmdline") -> bool:
    """Whether the monitor ends with a reset of the machine, and knows no way to power it off.

    It says so by having the kernel reset through the keyboard controller, as Firecracker demands
    (docs/getting-started.md of Firecracker).
    """
    try:
        return "reboot=k" in Path(cmdline).read_text("utf-8", "replace").split()
    except OSError:
        return False


def end_machine() -> None:
    """End the VM, from within. Raises OSError when not permitted."""
    if ends_by_reset():
        sysapi.restart()
    sysapi.power_off()


def report(stage: str, items: Iterable[str] = ()) -> None:
    """One line on the console, with the time since the kernel started."""
    with suppress(OSError):
        uptime = Path("/proc/uptime").read_text("ascii").split()[0]
        print(f"snapstart: {uptime}s {stage}", *items, file=sys.stderr, flush=True)
