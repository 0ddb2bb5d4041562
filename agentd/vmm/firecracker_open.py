"""Choose how Firecracker runs on a host."""

from __future__ import annotations

import os
from pathlib import Path

from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.choose import choose_user
from agentd.vmm.fault_access import FaultAccess
from agentd.vmm.feature_gate import name_host
from agentd.vmm.firecracker import DEFAULT_STARTS, Firecracker
from agentd.vmm.firecracker_spawn import FirecrackerSettings
from agentd.vmm.firecracker_versions import HINT, probe_program
from agentd.vmm.host import read_host_facts
from agentd.vmm.paging import Paging
from agentd.vmm.qemu_argv import KVM
from agentd.vmm.require import find_program, require_kvm


def open_firecracker(
    *,
    binary: str,
    uid_base: int,
    installation: str,
    vms_dir: Path,
    euid: int,
    starts: int = DEFAULT_STARTS,
    paging: Paging | None = None,
) -> Firecracker:
    """The Firecracker of this node, ready to start machines; the owner must `close` it.

    Groups of machines that a predecessor left, dead by now, are removed.
    Args: binary: name or path. uid_base: first uid for machines. installation: marks our processes.
    vms_dir: holds each machine's run directory. starts: most machines that start at the same
    moment. paging: the page server, None if forks map the image.
    Raises: ConfigError when the program is missing or too old, or KVM cannot be used.
    """
    path = find_program(binary, HINT)
    host = read_host_facts()
    is_unprivileged = euid == 0 and uid_base != 0
    require_kvm("Firecracker", host, is_unprivileged=is_unprivileged)
    settings = FirecrackerSettings(
        binary=path,
        program=probe_program(path),
        host=name_host(host.cpu, os.uname().release),
        host_tsc_khz=host.tsc_khz,
        installation=installation,
        vms_dir=vms_dir,
        user_of=choose_user(uid_base, host, euid, KVM),
        can_fault=FaultAccess.read().is_open_to(is_root=euid == 0 and not is_unprivileged),
    )
    return Firecracker(settings, CgroupTree.prepared(installation), starts, paging)
