"""Choose how QEMU runs on a host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.host import HostFacts, probe_qemu_version, read_host_facts
from agentd.vmm.qemu import DEFAULT_STARTS, Qemu, QemuSettings
from agentd.vmm.qemu_argv import KVM, TCG, Accelerator

# systemd's UIDS-GIDS leaves 1,879,048,192 to 2,147,483,647 unused. A machine's id picks one of 200
# million, so two machines of a node hardly ever share a uid.
_UID_SPAN: Final = 200_000_000

UserOf = Callable[[str], tuple[int, int] | None]


def choose_accelerator(wish: str, host: HostFacts, *, is_unprivileged: bool) -> Accelerator:
    """KVM where machines can use it, else emulation.

    Args: wish: auto, kvm or tcg. is_unprivileged: machines run as users of their own.
    Raises: ConfigError when KVM is demanded but cannot be used.
    """
    problem = _kvm_problem(host, is_unprivileged=is_unprivileged)
    if wish == "kvm" and problem:
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"choosing the accelerator: KVM is demanded, but {problem}",
            hint="set [monitor] accel to auto or tcg, or correct that",
        )
    return TCG if wish == "tcg" or problem else KVM


def _kvm_problem(host: HostFacts, *, is_unprivileged: bool) -> str:
    if not host.has_virtualization:
        return "the CPU does not show svm or vmx"
    if host.kvm is None:
        return "/dev/kvm does not open or does not answer"
    reachable = host.kvm.is_open_to_all or host.kvm.is_open_to_group
    if is_unprivileged and not reachable:
        return f"/dev/kvm has mode {host.kvm.mode:04o}, so the machines' users cannot open it"
    return ""


def choose_user(uid_base: int, host: HostFacts, euid: int, accelerator: Accelerator) -> UserOf:
    """Who each machine runs as: a uid derived from its id when we are root, else ourselves.

    Args: uid_base: 0 keeps machines under our own user. accelerator: with KVM a machine gets the
    group of /dev/kvm if it needs that, else a group of its own.
    """
    if euid != 0 or uid_base == 0:
        return lambda _vm_id: None
    kvm = host.kvm if accelerator == KVM else None
    kvm_gid = kvm.gid if kvm and kvm.is_open_to_group and not kvm.is_open_to_all else 0

    def user_of(vm_id: str) -> tuple[int, int] | None:
        digits = "".join(letter for letter in vm_id if letter in "0123456789abcdef")
        uid = uid_base + int(digits[-7:] or "0", 16) % _UID_SPAN
        return uid, kvm_gid or uid

    return user_of


def find_binary(name: str) -> str:
    """The absolute path of a program. Raises: ConfigError(QEMU_MISSING)."""
    path = shutil.which(name)
    if path is None:
        raise ConfigError(
            ErrorCode.QEMU_MISSING,
            f"looking for {name!r} in PATH: it is not there",
            hint="install qemu-system-x86, or set [monitor] qemu_binary to where it is",
        )
    return os.path.abspath(path)


def open_qemu(
    *,
    binary: str,
    accel: str,
    uid_base: int,
    installation: str,
    vms_dir: Path,
    euid: int,
    starts: int = DEFAULT_STARTS,
) -> Qemu:
    """The QEMU of this node, ready to start machines; the owner must `close` it.

    Groups of machines that a predecessor left, dead by now, are removed.
    Args: binary: name or path. accel: auto, kvm or tcg. uid_base: first uid for machines.
    installation: marks our processes. vms_dir: holds each machine's run directory.
    starts: most machines that start at the same moment.
    Raises: ConfigError when QEMU is missing or what is demanded cannot be.
    """
    path = find_binary(binary)
    host = read_host_facts()
    accelerator = choose_accelerator(accel, host, is_unprivileged=euid == 0 and uid_base != 0)
    settings = QemuSettings(
        binary=path,
        version=probe_qemu_version(path),
        accelerator=accelerator,
        host_cpu=host.cpu,
        host_tsc_khz=host.tsc_khz,
        installation=installation,
        vms_dir=vms_dir,
        user_of=choose_user(uid_base, host, euid, accelerator),
    )
    cgroups = CgroupTree.find(installation)
    cgroups.remove_empty()
    return Qemu(settings, cgroups, starts)
