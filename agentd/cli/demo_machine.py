"""Describe the machine that figures come from."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

from agentd.units import MIB
from agentd.vmm.host import parse_cpuinfo
from agentd.wire.demo import Machine


def describe_machine(qemu_version: str, *, commit: str = "") -> Machine:
    """What a reader needs to know before comparing figures."""
    fields = parse_cpuinfo(Path("/proc/cpuinfo").read_text())
    is_guest = "hypervisor" in fields.get("flags", "").split()
    return Machine(
        kernel=platform.release(),
        cpu=fields.get("model name", "unknown"),
        cores=os.cpu_count() or 0,
        memory_mib=psutil.virtual_memory().total // MIB,
        qemu_version=qemu_version,
        python=platform.python_version(),
        commit=commit,
        virtualized="yes" if is_guest else "no",
    )
