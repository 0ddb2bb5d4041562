"""Choose how Cloud Hypervisor runs on a host."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.choose import choose_accelerator, choose_user
from agentd.vmm.cloud_hypervisor import (
    DEFAULT_STARTS,
    CloudHypervisor,
    CloudHypervisorSettings,
)
from agentd.vmm.cloud_hypervisor_offload import OffloadServer
from agentd.vmm.cloud_hypervisor_versions import OLDEST, Version
from agentd.vmm.host import HostFacts, read_host_facts
from agentd.vmm.qemu_argv import KVM

_PROGRAM: Final = "cloud-hypervisor"
_PROBE_S: Final = 30.0
_FOR_ALL: Final = 0o006


@dataclass(frozen=True)
class FaultAccess:
    """Who may make a userfaultfd that sees a guest's faults.

    sysctl: vm.unprivileged_userfaultfd. device_mode: of /dev/userfaultfd, None if there is none.
    """

    sysctl: str
    device_mode: int | None

    @classmethod
    def read(cls, proc: Path = Path("/proc"), dev: Path = Path("/dev")) -> FaultAccess:
        """As this host has it."""
        try:
            sysctl = (proc / "sys/vm/unprivileged_userfaultfd").read_text().strip()
        except OSError:
            sysctl = ""
        try:
            mode = stat.S_IMODE((dev / "userfaultfd").stat().st_mode)
        except OSError:
            return cls(sysctl, None)
        return cls(sysctl, mode)

    def is_open_to(self, *, is_root: bool) -> bool:
        """Whether machines may: as root, or as users of their own."""
        is_for_all = self.device_mode is not None and self.device_mode & _FOR_ALL == _FOR_ALL
        return is_root or is_for_all or self.sysctl == "1"


def probe_version(binary: str) -> str:
    """What a Cloud Hypervisor says of itself, as "v53.0".

    Raises: ConfigError QEMU_MISSING when it is absent, or something else; CONFIG_INVALID when it is
    too old.
    """
    try:
        done = subprocess.run(
            [binary, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        raise _not_there(f"asked {binary!r} for its version: {exc}") from exc
    words = done.stdout.split()
    version = Version.parse(words[1]) if words[:1] == [_PROGRAM] and len(words) > 1 else None
    if version is None:
        raise _not_there(f"asked {binary!r} for its version: it answered {done.stdout[:80]!r}")
    if version < OLDEST:
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"asked {binary!r} for its version: it is {words[1]}, too old to be driven",
            hint=f"install Cloud Hypervisor {OLDEST} or later",
        )
    return words[1]


def find_program(name: str) -> str:
    """The absolute path of a program. Raises: ConfigError(QEMU_MISSING)."""
    path = shutil.which(name)
    if path is None:
        raise _not_there(f"looking for {name!r} in PATH: it is not there")
    return os.path.abspath(path)


def _not_there(message: str) -> ConfigError:
    hint = "install cloud-hypervisor, or set where it is"
    return ConfigError(ErrorCode.QEMU_MISSING, message, hint=hint)


def require_kvm(host: HostFacts, *, is_unprivileged: bool) -> None:
    """Make sure that machines can use KVM: there is no emulation. Raises: ConfigError."""
    try:
        choose_accelerator("kvm", host, is_unprivileged=is_unprivileged)
    except ConfigError as exc:
        raise ConfigError(
            exc.code,
            f"opening Cloud Hypervisor: {exc.message}",
            hint="correct that, or use QEMU, which can emulate",
        ) from exc


def open_cloud_hypervisor(
    *,
    binary: str,
    uid_base: int,
    installation: str,
    vms_dir: Path,
    euid: int,
    starts: int = DEFAULT_STARTS,
    offload: OffloadServer | None = None,
) -> CloudHypervisor:
    """The Cloud Hypervisor of this node, ready to start machines; the owner must `close` it.

    Groups of machines that a predecessor left, dead by now, are removed.
    Args: binary: name or path. uid_base: first uid for machines. installation: marks our processes.
    vms_dir: holds each machine's run directory. starts: most machines that start at the same
    moment. offload: fills the memory of forks.
    Raises: ConfigError when the program is missing or too old, or KVM cannot be used.
    """
    path = find_program(binary)
    host = read_host_facts()
    is_unprivileged = euid == 0 and uid_base != 0
    require_kvm(host, is_unprivileged=is_unprivileged)
    settings = CloudHypervisorSettings(
        binary=path,
        version=probe_version(path),
        host_cpu=host.cpu,
        host_tsc_khz=host.tsc_khz,
        installation=installation,
        vms_dir=vms_dir,
        user_of=choose_user(uid_base, host, euid, KVM),
        can_fault=FaultAccess.read().is_open_to(is_root=euid == 0 and not is_unprivileged),
    )
    cgroups = CgroupTree.find(installation)
    cgroups.remove_empty()
    return CloudHypervisor(settings, cgroups, starts, offload)
