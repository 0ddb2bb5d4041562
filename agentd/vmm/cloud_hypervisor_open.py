"""Choose how Cloud Hypervisor runs on a host."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agentd.errors import ConfigError, ErrorCode
from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.choose import choose_user
from agentd.vmm.cloud_hypervisor import (
    DEFAULT_STARTS,
    CloudHypervisor,
    CloudHypervisorSettings,
)
from agentd.vmm.cloud_hypervisor_versions import OLDEST, Version
from agentd.vmm.fault_access import FaultAccess
from agentd.vmm.host import read_host_facts
from agentd.vmm.paging import Paging
from agentd.vmm.qemu_argv import KVM
from agentd.vmm.require import ask_program, find_program, missing, require_kvm
from agentd.vmm.shared_pages import has_huge_shared_pages

_PROGRAM: Final = "cloud-hypervisor"
_HINT: Final = "install cloud-hypervisor, or set [monitor] cloud_hypervisor_binary to where it is"


def probe_version(binary: str) -> str:
    """What a Cloud Hypervisor says of itself, as "v53.0".

    Raises: ConfigError MONITOR_MISSING when it is absent, or something else; CONFIG_INVALID when it
    is too old.
    """
    answer = ask_program(binary, "--version", _HINT)
    words = answer.split()
    version = Version.parse(words[1]) if words[:1] == [_PROGRAM] and len(words) > 1 else None
    if version is None:
        raise missing(f"asked {binary!r} for its --version: it answered {answer[:80]!r}", _HINT)
    if version < OLDEST:
        raise ConfigError(
            ErrorCode.CONFIG_INVALID,
            f"asked {binary!r} for its --version: it is {words[1]}, too old to be driven",
            hint=f"install Cloud Hypervisor {OLDEST} or later",
        )
    return words[1]


def open_cloud_hypervisor(
    *,
    binary: str,
    uid_base: int,
    installation: str,
    vms_dir: Path,
    euid: int,
    starts: int = DEFAULT_STARTS,
    paging: Paging | None = None,
) -> CloudHypervisor:
    """The Cloud Hypervisor of this node, ready to start machines; the owner must `close` it.

    Groups of machines that a predecessor left, dead by now, are removed.
    Args: binary: name or path. uid_base: first uid for machines. installation: marks our processes.
    vms_dir: holds each machine's run directory. starts: most machines that start at the same
    moment. paging: the page server, None if there is none.
    Raises: ConfigError when the program is missing or too old, or KVM cannot be used.
    """
    path = find_program(binary, _HINT)
    host = read_host_facts()
    is_unprivileged = euid == 0 and uid_base != 0
    require_kvm("Cloud Hypervisor", host, is_unprivileged=is_unprivileged)
    settings = CloudHypervisorSettings(
        binary=path,
        version=probe_version(path),
        host_cpu=host.cpu,
        host_tsc_khz=host.tsc_khz,
        installation=installation,
        vms_dir=vms_dir,
        user_of=choose_user(uid_base, host, euid, KVM),
        can_fault=FaultAccess.read().is_open_to(is_root=euid == 0 and not is_unprivileged),
        has_huge=has_huge_shared_pages(),
    )
    return CloudHypervisor(settings, CgroupTree.prepared(installation), starts, paging)
