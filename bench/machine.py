"""Describe the machine that figures come from."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import psutil

from agentd.units import MIB
from agentd.vmm.host import parse_cpuinfo
from agentd.wire.demo import Machine

ROOT = Path(__file__).parents[1]


def read_commit() -> str:
    """The checkout's commit, with a plus sign when files differ from it; empty without git."""
    argv = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def describe_machine(qemu_version: str) -> Machine:
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
        commit=read_commit(),
        virtualized="yes" if is_guest else "no",
    )
