"""Choose how QEMU runs on a host."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agentd.vmm.cgroup import CgroupTree
from agentd.vmm.choose import choose_accelerator, choose_user
from agentd.vmm.host import read_host_facts
from agentd.vmm.qemu import DEFAULT_STARTS, Qemu, QemuSettings
from agentd.vmm.require import ask_program, find_program, missing

_HINT: Final = "install qemu-system-x86, or set [monitor] qemu_binary to where it is"


def probe_qemu_version(binary: str) -> str:
    """The version of a QEMU binary, as "7.2.22".

    Raises: ConfigError MONITOR_MISSING when it is absent or does not answer as QEMU does.
    """
    answer = ask_program(binary, "--version", _HINT)
    words = answer.split()
    if words[:3] != ["QEMU", "emulator", "version"] or len(words) < 4:
        raise missing(
            f"asked {binary!r} for its --version: it answered {answer[:80]!r}",
            "set [monitor] qemu_binary to a QEMU system emulator for x86-64",
        )
    return words[3]


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
    path = find_program(binary, _HINT)
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
    return Qemu(settings, CgroupTree.prepared(installation), starts)
